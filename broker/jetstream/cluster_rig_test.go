package jetstream_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
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
// under its old address. They lie below those that the system gives away, which
// another test may have got until then.
func freePorts(t *testing.T, n int) []int {
	t.Helper()
	var ports []int
	for range 100 * n {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(10_000)))
		if err != nil {
			continue
		}
		defer func() { _ = l.Close() }() // all at the end, so that they differ
		if addr, ok := l.Addr().(*net.TCPAddr); ok {
			ports = append(ports, addr.Port)
		}
		if len(ports) == n {
			return ports
		}
	}
	t.Fatal("too few free ports from 10000 to 20000")
	return nil
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

// level waits until all servers have the same of the stream.
func (c *cluster) level(t *testing.T) {
	t.Helper()
	until(t, "the servers' streams are level", func() bool {
		var last []uint64
		for _, n := range c.nodes {
			info, err := n.srv.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
			if err != nil || len(info.AccountDetails) == 0 || len(info.AccountDetails[0].Streams) == 0 {
				return false
			}
			last = append(last, info.AccountDetails[0].Streams[0].State.LastSeq)
		}
		return len(slices.Compact(last)) == 1
	})
}

// intact fails the test where a server has dropped anything of the stream, once it has
// read that from its disk. The one that leads it one day would make that the others' loss.
func (c *cluster) intact(t *testing.T, after string) {
	t.Helper()
	for _, n := range c.nodes {
		have := ""
		defer func() {
			if t.Failed() {
				t.Log(have)
			}
		}()
		until(t, after+": "+n.opts.ServerName+" has all of the stream", func() bool {
			info, err := n.srv.Jsz(&server.JSzOptions{Accounts: true, Streams: true})
			if err != nil || len(info.AccountDetails) == 0 || len(info.AccountDetails[0].Streams) == 0 {
				have = fmt.Sprintf("%s tells nothing of its stream: %v", n.opts.ServerName, err)
				return false
			}
			s := info.AccountDetails[0].Streams[0].State
			have = fmt.Sprintf("%s has %d messages from %d to %d", n.opts.ServerName, s.Msgs, s.FirstSeq, s.LastSeq)
			return s.FirstSeq == 1 && s.Msgs == s.LastSeq
		})
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

// until waits for ok, for as long as a busy machine may need.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for timeout := time.After(90 * time.Second); !ok(); {
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatalf("not within 90 s: %s", what)
		}
	}
}
