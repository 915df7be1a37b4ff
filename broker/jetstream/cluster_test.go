package jetstream_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/lockstep-go/lockstep/broker/jetstream"
)

// cluster is three NATS servers with routes between them.
type cluster struct {
	nodes []*clusterNode
}

// clusterNode is one server, which can be ended and started again.
type clusterNode struct {
	opts server.Options
	srv  *server.Server // nil while it is down
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	const size = 3
	c := &cluster{}
	ports := freePorts(t, 2*size)
	var routes []*url.URL
	for _, port := range ports[size:] {
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)})
	}
	for i := range size {
		c.nodes = append(c.nodes, &clusterNode{opts: server.Options{
			ServerName: fmt.Sprintf("node-%d", i), Host: "127.0.0.1", Port: ports[i],
			JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "lockstep", Host: "127.0.0.1", Port: ports[size+i]},
			Routes:  routes,
		}})
	}
	for _, n := range c.nodes {
		n.start(t)
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.stop()
		}
	})
	c.whole(t)
	return c
}

// freePorts returns ports that nobody listens on, so that a server comes back
// under its old address.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatalf("look for a port: %v", err)
		}
		defer func() { _ = l.Close() }() // all at the end, so that they differ
		if addr, ok := l.Addr().(*net.TCPAddr); ok {
			ports = append(ports, addr.Port)
		}
	}
	return ports
}

func (n *clusterNode) start(t *testing.T) {
	t.Helper()
	opts := n.opts
	srv, err := server.NewServer(&opts)
	if err != nil {
		t.Fatalf("NATS server: %v", err)
	}
	srv.Start()
	n.srv = srv
}

func (n *clusterNode) stop() {
	if n.srv != nil {
		stopServer(n.srv)
		n.srv = nil
	}
}

func (n *clusterNode) addr() string { return fmt.Sprintf("127.0.0.1:%d", n.opts.Port) }

// whole waits until all servers take part and have a leader.
func (c *cluster) whole(t *testing.T) {
	t.Helper()
	until(t, "the cluster is whole", func() bool {
		leaders := 0
		for _, n := range c.nodes {
			if n.srv == nil || !n.srv.ReadyForConnections(time.Second) || !n.srv.JetStreamIsCurrent() {
				return false
			}
			if n.srv.JetStreamIsLeader() {
				leaders++
				if !c.present(n) {
					return false
				}
			}
		}
		return leaders == 1
	})
}

// present reports whether the leader of all streams sees the others, without which it
// places no stream on them.
func (c *cluster) present(leader *clusterNode) bool {
	info, err := leader.srv.Jsz(nil)
	return err == nil && info.Meta != nil && len(info.Meta.Replicas) == len(c.nodes)-1 &&
		!slices.ContainsFunc(info.Meta.Replicas, func(p *server.PeerInfo) bool { return p.Offline || !p.Current })
}

// describe says how the streams and their consumers stand.
func (c *cluster) describe() string {
	var all []string
	for _, n := range c.nodes {
		info, err := n.srv.Jsz(&server.JSzOptions{Accounts: true, Streams: true, Consumer: true})
		if err != nil || len(info.AccountDetails) == 0 {
			all = append(all, fmt.Sprintf("%s: %v", n.opts.ServerName, err))
			continue
		}
		for _, s := range info.AccountDetails[0].Streams {
			text := fmt.Sprintf("%s: %s %d to %d (%d)", n.opts.ServerName, s.Name, s.State.FirstSeq, s.State.LastSeq, s.State.Msgs)
			for _, q := range s.Consumer {
				text += fmt.Sprintf(", %s delivered %d, acked %d, pending %d, unacked %d", q.Name, q.Delivered.Stream, q.AckFloor.Stream, q.NumPending, q.NumAckPending)
			}
			all = append(all, text)
		}
	}
	return strings.Join(all, "; ")
}

// intact reports servers that have dropped anything of the stream. The one that leads
// it one day would make that the others' loss.
func (c *cluster) intact(t *testing.T, after string) {
	t.Helper()
	for _, n := range c.nodes {
		info, err := n.srv.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
		if err != nil || len(info.AccountDetails) == 0 || len(info.AccountDetails[0].Streams) == 0 {
			t.Errorf("%s: %s tells nothing of its stream: %v", after, n.opts.ServerName, err)
			continue
		}
		if s := info.AccountDetails[0].Streams[0].State; s.FirstSeq != 1 || s.Msgs != s.LastSeq {
			t.Errorf("%s: %s has %d messages from %d to %d, want all", after, n.opts.ServerName, s.Msgs, s.FirstSeq, s.LastSeq)
		}
	}
}

// leader returns the server that leads the stream.
func (c *cluster) leader(t *testing.T, stream string) (leader *clusterNode) {
	t.Helper()
	until(t, "the stream has a leader", func() bool {
		i := slices.IndexFunc(c.nodes, func(n *clusterNode) bool {
			return n.srv != nil && n.srv.JetStreamIsStreamLeader("$G", stream)
		})
		if i >= 0 {
			leader = c.nodes[i]
		}
		return i >= 0
	})
	return leader
}

// at returns the server with an address.
func (c *cluster) at(addr string) *clusterNode {
	return c.nodes[slices.IndexFunc(c.nodes, func(n *clusterNode) bool { return n.addr() == addr })]
}

// url lists the servers.
func (c *cluster) url(parameters string) string {
	var addrs []string
	for _, n := range c.nodes {
		addrs = append(addrs, n.addr())
	}
	return "nats://" + strings.Join(addrs, ",") + "?" + parameters
}

// until waits for ok, for half a minute at most.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for timeout := time.After(30 * time.Second); !ok(); {
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// where notes the server that a Broker is connected to.
type where struct {
	mu   sync.Mutex
	addr string
}

func (w *where) option() nats.Option {
	return nats.ConnectHandler(func(nc *nats.Conn) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.addr = nc.ConnectedAddr()
	})
}

func (w *where) now() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.addr
}

// received is what came to a queue's consumer, by message.
type received struct {
	mu   sync.Mutex
	seen map[string]int
}

func (r *received) take(msgs <-chan *message.Message) {
	for msg := range msgs {
		r.mu.Lock()
		r.seen[string(msg.Payload)]++
		r.mu.Unlock()
		msg.Ack()
	}
}

func (r *received) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

// flow publishes numbered messages until it is stopped, a call at a time, and
// again those that failed before any other, as the relay does.
type flow struct {
	confirmed chan int // how many so far, the newest only
	stop      chan struct{}
	done      chan int
}

func startFlow(t *testing.T, b *jetstream.Broker, topic string) *flow {
	t.Helper()
	f := &flow{confirmed: make(chan int, 1), stop: make(chan struct{}), done: make(chan int, 1)}
	go func() {
		next, confirmed := 0, 0
		var again []string
		for {
			select {
			case <-f.stop:
				if len(again) == 0 {
					f.done <- next
					return
				}
			case <-time.After(2 * time.Millisecond):
				if len(again) == 0 {
					again = bodies(next, next+20)
					next += 20
				}
			}
			msgs := messages(again...)
			errs := b.PublishAsync(context.Background(), slices.Repeat([]string{topic}, len(msgs)), msgs)(context.Background())
			var failed []string
			for i, err := range errs {
				if err != nil { // and all behind it, or it would be overtaken
					failed = again[i:]
					break
				}
			}
			confirmed += len(again) - len(failed)
			again = failed
			select {
			case <-f.confirmed:
			default:
			}
			f.confirmed <- confirmed
		}
	}()
	return f
}

// goesOn waits for another hundred confirmed messages.
func (f *flow) goesOn(t *testing.T, after string) {
	t.Helper()
	first := -1
	for timeout := time.After(time.Minute); ; {
		select {
		case n := <-f.confirmed:
			if first < 0 {
				first = n
			}
			if n >= first+100 {
				return
			}
		case <-timeout:
			t.Fatalf("%s: publishing did not go on within a minute", after)
		}
	}
}

func (f *flow) end() (published int) {
	close(f.stop)
	return <-f.done
}

// TestCluster ends, one after the other, the server that the publisher is connected
// to, that of the subscriber, and the stream's leader, while messages flow. What was
// confirmed is there, in its order, and both sides go on by themselves.
func TestCluster(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	var publishing, consuming where
	cfg := jetstream.Config{ConfirmTimeout: 5 * time.Second, AckWait: 2 * time.Second}
	cfg.Options = []nats.Option{publishing.option()}
	publisher := open(t, c.url("replicas=3"), cfg)
	cfg.Options = []nats.Option{consuming.option()}
	subscriber := open(t, c.url("replicas=3"), cfg)
	for _, queue := range []string{"q", "witness"} {
		until(t, queue+" is bound", func() bool { return subscriber.Bind(t.Context(), queue, "account") == nil })
	}
	have := &received{seen: map[string]int{}}
	msgs := subscribe(t, subscriber, "q")
	go have.take(msgs)

	f := startFlow(t, publisher, "account")
	f.goesOn(t, "at first")
	for _, fault := range []struct {
		what  string
		ended func() *clusterNode
	}{
		{"the publisher's server ended", func() *clusterNode { return c.at(publishing.now()) }},
		{"the subscriber's server ended", func() *clusterNode { return c.at(consuming.now()) }},
		{"the stream's leader ended", func() *clusterNode { return c.leader(t, "cqrs") }},
	} {
		n := fault.ended()
		n.stop()
		f.goesOn(t, fault.what)
		before := have.count()
		until(t, fault.what+": consuming goes on", func() bool { return have.count() >= before+100 })
		n.start(t)
		c.whole(t)
		c.intact(t, fault.what)
	}
	published := f.end()
	until(t, "all is consumed", func() bool { return have.count() == published })

	var order []string // as each came first: repeats are allowed
	seen := map[string]bool{}
	for witness := subscribe(t, subscriber, "witness"); len(order) < published; {
		var msg *message.Message
		select {
		case msg = <-witness:
		case <-time.After(time.Minute):
			missing := slices.DeleteFunc(bodies(0, published), func(body string) bool { return seen[body] })
			t.Fatalf("the witness misses %d of %d messages, %s to %s: none came within a minute. Of the stream is known: %s",
				len(missing), published, missing[0], missing[len(missing)-1], c.describe())
		}
		if body := string(msg.Payload); !seen[body] {
			seen[body] = true
			order = append(order, body)
		}
		msg.Ack()
	}
	same(t, "order in the stream", bodies(0, published), order)
}

// TestReplicas: the stream and the queues are held by as many servers as was asked for.
func TestReplicas(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	b := open(t, c.url("replicas=3"), jetstream.Config{})
	mustBind(t, b, "q", "account")
	mustPublish(t, b, "account", bodies(0, 10)...)
	for _, n := range c.nodes {
		until(t, "the messages are on "+n.opts.ServerName, func() bool {
			info, err := n.srv.Jsz(&server.JSzOptions{Accounts: true, Streams: true, Consumer: true})
			if err != nil || len(info.AccountDetails) == 0 || len(info.AccountDetails[0].Streams) == 0 {
				return false
			}
			s := info.AccountDetails[0].Streams[0]
			return s.State.Msgs == 11 && len(s.Consumer) == 2 // the anchor; the queue, and what keeps delayed messages
		})
	}
}

// TestReplicasNeedACluster: a single server says what is wrong.
func TestReplicasNeedACluster(t *testing.T) {
	t.Parallel()
	srv := startServer(t, t.TempDir(), -1)
	_, err := jetstream.Open(t.Context(), srv.ClientURL()+"?replicas=3", jetstream.Config{})
	if err == nil || !strings.Contains(err.Error(), "replicas") {
		t.Errorf("have %v, want an error that speaks of replicas", err)
	}
}
