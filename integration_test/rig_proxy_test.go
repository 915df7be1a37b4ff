package integration_test

import (
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// proxy stands between a service and the broker. It can swallow what the service
// sends, as a network does before it is noticed to be gone, or stop to read.
type proxy struct {
	url       string
	broker    string
	listener  net.Listener
	swallows  atomic.Bool
	swallowed atomic.Int64 // bytes
	deafens   atomic.Bool
	refuses   atomic.Bool

	accepted atomic.Int64 // connections
	held     atomic.Int64 // bytes of the service that wait until it flows again

	mu      sync.Mutex
	flowing *sync.Cond // on mu: stalled or closed has changed
	conns   map[net.Conn]bool
	stalled bool
	closed  bool
	group   sync.WaitGroup
}

// newProxy listens until the test ends.
func newProxy(t *testing.T, brokerURL string) *proxy {
	t.Helper()
	u, err := url.Parse(brokerURL)
	if err != nil {
		t.Fatal("the broker's address is not a URL")
	}
	p := &proxy{broker: u.Host, conns: map[net.Conn]bool{}}
	p.flowing = sync.NewCond(&p.mu)
	if u.Port() == "" {
		p.broker = net.JoinHostPort(u.Hostname(), "5672")
	}
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	u.Host = p.listener.Addr().String()
	p.url = u.String()
	p.group.Go(p.serve)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) serve() {
	for {
		service, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.accepted.Add(1)
		if p.refuses.Load() {
			_ = service.Close()
			continue
		}
		broker, err := net.Dial("tcp", p.broker)
		if err != nil || !p.keep(service, broker) {
			_ = service.Close()
			continue
		}
		p.group.Go(func() { p.forward(broker, service, true) })
		p.group.Go(func() { p.forward(service, broker, false) })
	}
}

func (p *proxy) keep(pair ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range pair {
		if p.closed {
			_ = c.Close()
			continue
		}
		p.conns[c] = true
	}
	return !p.closed
}

func (p *proxy) forward(to, from net.Conn, fromService bool) {
	defer func() { _ = to.Close() }()
	defer func() { _ = from.Close() }()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if fromService {
			p.await(n)
		}
		switch {
		case fromService && p.swallows.Load():
			p.swallowed.Add(int64(n))
		case !fromService && p.deafens.Load():
		default:
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// await holds bytes of the service while the proxy is stalled.
func (p *proxy) await(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled {
		p.held.Add(int64(n))
	}
	for p.stalled && !p.closed {
		p.flowing.Wait()
	}
}

// stall stops reading what services send, until flow. Nothing is lost, but they may
// give up connections and make new ones, which stall too.
func (p *proxy) stall() {
	p.held.Store(0)
	p.setStalled(true)
}

func (p *proxy) flow() { p.setStalled(false) }

func (p *proxy) setStalled(stalled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = stalled
	p.flowing.Broadcast()
}

// swallow takes what services send from now on and forwards nothing of it, until
// mend.
func (p *proxy) swallow() {
	p.swallowed.Store(0)
	p.swallows.Store(true)
}

// awaitSwallowed waits until the service has sent what it could without hearing
// from the broker.
func (p *proxy) awaitSwallowed(t *testing.T) {
	t.Helper()
	const quiet = 200 * time.Millisecond
	last, since := int64(0), time.Now()
	until(t, "the service sends messages", func() bool {
		if n := p.swallowed.Load(); n != last {
			last, since = n, time.Now()
		}
		return last > 0 && time.Since(since) > quiet
	})
}

// deafen keeps from services what the broker sends from now on, until mend. What they
// send arrives.
func (p *proxy) deafen() { p.deafens.Store(true) }

// mend cuts all connections and forwards those that come.
func (p *proxy) mend() {
	p.cut()
	p.swallows.Store(false)
	p.deafens.Store(false)
}

// refuse cuts all connections and lets none be made until admit.
func (p *proxy) refuse() {
	p.refuses.Store(true)
	p.cut()
}

func (p *proxy) admit() { p.refuses.Store(false) }

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	p.flowing.Broadcast()
	p.mu.Unlock()
	p.cut()
	p.group.Wait()
}
