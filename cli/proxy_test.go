package cli_test

import (
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// proxy stands between a command and a server, for outages.
type proxy struct {
	url    string // the server's, by way of the proxy
	server string // its host and port

	mu    sync.Mutex
	mode  mode
	conns []net.Conn
	gate  chan struct{} // closed while bytes may pass
	delay time.Duration // of all that passes
}

// mode is what a proxy does.
type mode int

const (
	passes  mode = iota
	stalls       // keeps connections and lets nothing through
	refuses      // ends connections, old and new
)

// newProxy returns a proxy to the server of a URL with a port.
func newProxy(t *testing.T, raw string) *proxy {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil || u.Port() == "" {
		t.Fatal("not a URL with a port")
	}
	p := &proxy{server: u.Host, gate: make(chan struct{})}
	close(p.gate)
	u.Host = listen(t, p.serve)
	p.url = u.String()
	t.Cleanup(func() { p.set(refuses) })
	return p
}

func (p *proxy) set(m mode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case m == stalls && p.mode != stalls:
		p.gate = make(chan struct{})
	case m != stalls && p.mode == stalls:
		close(p.gate)
	}
	p.mode = m
	if m == refuses {
		for _, c := range p.conns {
			_ = c.Close()
		}
		p.conns = nil
	}
}

// slow delays all that passes from now on, either way.
func (p *proxy) slow(delay time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = delay
}

func (p *proxy) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	refused := p.mode == refuses
	p.conns = append(p.conns, client, server)
	p.mu.Unlock()
	if refused {
		_, _ = client.Close(), server.Close()
		return
	}
	go p.copy(client, server)
	p.copy(server, client)
}

// copy hands bytes on for as long as the gate is open, then closes both.
func (p *proxy) copy(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		gate, delay := p.gate, p.delay
		p.mu.Unlock()
		<-gate
		<-time.After(delay)
		if _, werr := to.Write(buffer[:n]); err != nil || werr != nil {
			return
		}
	}
}
