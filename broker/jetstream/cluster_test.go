package jetstream_test

import (
	"context"
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
	calling   sync.Mutex // held while a call is under way
	confirmed chan int   // how many so far, the newest only
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
			f.calling.Lock()
			errs := b.PublishAsync(context.Background(), slices.Repeat([]string{topic}, len(msgs)), msgs)(context.Background())
			f.calling.Unlock()
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
		// A server that is told to end while a message arrives may leave that one out of its
		// copy (nats-server 2.15.2: the stream's consumers go before the last message comes).
		f.calling.Lock()
		c.level(t)
		n := fault.ended()
		n.stop()
		f.calling.Unlock()
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
