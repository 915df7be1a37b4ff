package sql_test

import (
	"bytes"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
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
	freeze  string        // what a client sends with this in it, and all behind it, does not pass until mend
	slow    time.Duration // how long each 32 KiB take
	lose    string        // the first client that has sent this is cut off
	at      string        // when it sends this
	late    time.Duration // which the server gets, and notices, so much later
	lost    bool          // one has been cut off
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
			p.serving.Go(func() { p.pass(client, server, func([]byte) {}) })
			p.serving.Go(func() { p.pass(server, client, p.watch(client)) })
		}
		p.mu.Unlock()
	}
}

// watch returns what is shown all that a client sends, before it passes.
func (p *proxy) watch(client net.Conn) func(sent []byte) {
	losing := false
	has := func(sent []byte, text string) bool { return text != "" && bytes.Contains(sent, []byte(text)) }
	return func(sent []byte) {
		p.mu.Lock()
		p.stalled = p.stalled || has(sent, p.freeze)
		if has(sent, p.lose) {
			losing, p.lose = true, ""
		}
		late, lost := p.late, losing && has(sent, p.at)
		p.lost = p.lost || lost
		p.mu.Unlock()
		if lost {
			_ = client.Close()
			<-time.After(late)
		}
	}
}

// freezeAt holds everything back from when a client sends the text.
func (p *proxy) freezeAt(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.freeze = text
}

// loseAt cuts off the first client that has sent one text when it sends the other, which the server gets,
// and notices, late.
func (p *proxy) loseAt(after, at string, late time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose, p.at, p.late = after, at, late
}

func (p *proxy) hasLost() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

func (p *proxy) isStalled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stalled
}

func (p *proxy) pass(to, from net.Conn, show func(sent []byte)) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		show(buf[:n])
		p.mu.Lock()
		for p.stalled && !p.away {
			p.flowing.Wait()
		}
		slow := p.slow
		p.mu.Unlock()
		<-time.After(slow * time.Duration(n) / time.Duration(len(buf)))
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

// slowDown lets 32 KiB pass in that time, in each direction of each connection.
func (p *proxy) slowDown(slow time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slow = slow
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
	p.away, p.stalled, p.freeze, p.slow = false, false, "", 0
	p.flowing.Broadcast()
}
