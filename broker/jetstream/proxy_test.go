package jetstream_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy stands between a Broker and its server and can fail as networks do.
type proxy struct {
	listener net.Listener
	server   string
	serving  sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	conns   []net.Conn
	stalled chan struct{} // not nil: nothing passes until it is closed
	frozen  *atomic.Bool  // of the present connections: what comes is thrown away
}

func startProxy(t *testing.T, server string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("proxy: %v", err)
	}
	p := &proxy{listener: listener, server: server, frozen: &atomic.Bool{}}
	p.serving.Go(p.serve)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) url() string { return "nats://" + p.listener.Addr().String() }

func (p *proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil {
			_ = client.Close() // as if the server had refused it
			continue
		}
		p.mu.Lock()
		if p.closed {
			_, _ = client.Close(), server.Close()
		}
		p.conns = append(p.conns, client, server)
		frozen := p.frozen
		p.mu.Unlock()
		p.serving.Go(func() { p.copy(client, server, frozen) })
		p.serving.Go(func() { p.copy(server, client, frozen) })
	}
}

func (p *proxy) copy(to, from net.Conn, frozen *atomic.Bool) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		stalled := p.stalled
		p.mu.Unlock()
		if stalled != nil {
			<-stalled
		}
		if frozen.Load() {
			n = 0
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// stall holds everything back until resume.
func (p *proxy) stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = make(chan struct{})
}

func (p *proxy) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stalled != nil {
		close(p.stalled)
		p.stalled = nil
	}
}

// freeze passes nothing any more on the present connections, and does not end them.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen.Store(true)
	p.frozen = &atomic.Bool{}
}

// cut ends all connections, without a word and with the loss of what is held
// back. New ones are possible.
func (p *proxy) cut() {
	p.mu.Lock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.resume()
}

func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.listener.Close()
	p.cut()
	p.serving.Wait()
}
