package rabbitmq

import (
	"encoding/binary"
	"net"
	"net/url"
	"sync"
)

// proxy stands between a broker and the server, to cut or to stall their connections.
type proxy struct {
	listener net.Listener
	target   string

	mu     sync.Mutex
	conns  []net.Conn
	gates  []*gate // of the conns, one for two: what goes to the server
	backs  []*gate // the same of what comes from it
	refuse bool
}

// gate holds bytes to the server back, while it is shut.
type gate struct {
	mu   sync.Mutex
	shut chan struct{} // nil while the gate is open
}

func (g *gate) pass() {
	g.mu.Lock()
	shut := g.shut
	g.mu.Unlock()
	if shut != nil {
		<-shut
	}
}

func (g *gate) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
	}
}

// proxied returns a proxy to the server and the URL through it.
func (r *rig) proxied() (*proxy, string) {
	r.t.Helper()
	u, err := url.Parse(r.url)
	if err != nil {
		r.t.Fatal(err)
	}
	p := &proxy{target: u.Host}
	if u.Port() == "" {
		p.target = net.JoinHostPort(u.Hostname(), "5672")
	}
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		r.t.Fatal(err)
	}
	go p.serve()
	r.t.Cleanup(func() {
		_ = p.listener.Close()
		p.cut()
	})
	u.Host = p.listener.Addr().String()
	return p, u.String()
}

func (p *proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		p.mu.Lock()
		if err != nil || p.refuse {
			_ = client.Close()
			p.mu.Unlock()
			continue
		}
		g, back := &gate{}, &gate{}
		p.conns, p.gates, p.backs = append(p.conns, client, server), append(p.gates, g), append(p.backs, back)
		p.mu.Unlock()
		go pipe(server, client, g)
		go pipe(client, server, back)
	}
}

func pipe(to, from net.Conn, g *gate) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		g.pass()
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

// stall stops reading what clients send on their present connections; to them the server seems to hang.
func (p *proxy) stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, g := range p.gates {
		g.close()
	}
}

// freeze passes nothing any more on the present connections, in either direction, and does not end them.
func (p *proxy) freeze() {
	p.stall()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, g := range p.backs {
		g.close()
	}
}

// cut ends all connections; new ones are let through unless refuse is set.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	for _, g := range append(p.gates, p.backs...) {
		g.open() // ends its pipe
	}
	p.conns, p.gates, p.backs = nil, nil, nil
}

func (p *proxy) setRefuse(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = refuse
}

// connections returns how many lead through the proxy.
func (p *proxy) connections() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.gates)
}

// block sends connection.blocked, or connection.unblocked, to the clients. RabbitMQ does so when
// memory or disk run short.
func (p *proxy) block(blocked bool) {
	payload := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, 10), 61)
	if blocked {
		payload[3] = 60
		payload = append(payload, "\x0alow memory"...)
	}
	frame := binary.BigEndian.AppendUint32([]byte{1, 0, 0}, uint32(len(payload)))
	frame = append(append(frame, payload...), 0xCE)
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := 0; i < len(p.conns); i += 2 {
		_, _ = p.conns[i].Write(frame)
	}
}
