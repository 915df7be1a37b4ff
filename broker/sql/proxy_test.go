package sql_test

import (
	"net"
	"net/url"
	"sync"
	"testing"
)

// proxy stands between a Broker and its server and can fail as networks do.
type proxy struct {
	url      string // of the broker behind it
	server   string
	listener net.Listener
	serving  sync.WaitGroup

	mu      sync.Mutex
	flowing *sync.Cond // on mu: stalled or away has changed
	stalled bool       // nothing passes
	away    bool       // and nobody is let in
	conns   map[net.Conn]struct{}
}

func startProxy(t *testing.T, brokerURL string) *proxy {
	t.Helper()
	u, err := url.Parse(brokerURL)
	if err != nil {
		t.Fatal("the broker's address is no URL")
	}
	p := &proxy{server: u.Host, conns: map[net.Conn]struct{}{}}
	p.flowing = sync.NewCond(&p.mu)
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatalf("proxy: %v", err)
	}
	u.Host = p.listener.Addr().String()
	p.url = u.String()
	p.serving.Go(p.serve)
	t.Cleanup(func() {
		_ = p.listener.Close()
		p.cut()
		p.serving.Wait()
	})
	return p
}

func (p *proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server)
		p.mu.Lock()
		if err != nil || p.away {
			_ = client.Close() // as if the server had refused it
			if server != nil {
				_ = server.Close()
			}
		} else {
			p.conns[client], p.conns[server] = struct{}{}, struct{}{}
			p.serving.Go(func() { p.pass(client, server) })
			p.serving.Go(func() { p.pass(server, client) })
		}
		p.mu.Unlock()
	}
}

func (p *proxy) pass(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		for p.stalled && !p.away {
			p.flowing.Wait()
		}
		p.mu.Unlock()
		if _, werr := to.Write(buf[:n]); werr != nil || err != nil {
			return
		}
	}
}

// stall holds everything back until mend.
func (p *proxy) stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = true
}

// cut ends all connections and lets nobody in until mend.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = true
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
	p.flowing.Broadcast()
}

func (p *proxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away, p.stalled = false, false
	p.flowing.Broadcast()
}
