package rabbitmq

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// rig is a test's own exchange on the real server, and a channel to look behind the broker's back.
// Exchange and queues are deleted at the end.
type rig struct {
	t        testing.TB
	url      string
	exchange string
	conn     *amqp.Connection
	ch       *amqp.Channel

	mu     sync.Mutex
	queues []string
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, url: testdb.RabbitMQURL(t), exchange: "test-" + uuid.NewString()[:8]}
	var err error
	if r.conn, err = amqp.Dial(r.url); err != nil {
		t.Fatalf("no RabbitMQ (%v); start it with: scripts/services up postgres rabbitmq", err)
	}
	r.ch = r.channel()
	t.Cleanup(r.clean)
	return r
}

func (r *rig) channel() *amqp.Channel {
	r.t.Helper()
	ch, err := r.conn.Channel()
	if err != nil {
		r.t.Fatal(err)
	}
	return ch
}

func (r *rig) clean() {
	ch := r.channel() // a test's failure may have closed the first one
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, queue := range r.queues {
		if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
			r.t.Errorf("delete queue %s: %v", queue, err)
		}
		if strings.HasPrefix(queue, "lockstep.delay.") {
			if err := ch.ExchangeDelete(queue, false, false); err != nil {
				r.t.Errorf("delete exchange %s: %v", queue, err)
			}
		}
	}
	if err := ch.ExchangeDelete(r.exchange, false, false); err != nil {
		r.t.Errorf("delete exchange %s: %v", r.exchange, err)
	}
	_ = r.conn.Close()
}

// queue returns a new queue name; the queue is deleted at the end of the test.
func (r *rig) queue() string { return r.deleteLater("test-" + uuid.NewString()[:8]) }

func (r *rig) deleteLater(queue string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queues = append(r.queues, queue)
	return queue
}

func (r *rig) open(cfg Config) *Broker {
	r.t.Helper()
	return r.openAt(r.url, cfg)
}

func (r *rig) openAt(url string, cfg Config) *Broker {
	r.t.Helper()
	cfg.Exchange = r.exchange
	b, err := Open(context.Background(), url, cfg)
	if err != nil {
		r.t.Fatalf("Open: %v", err)
	}
	r.t.Cleanup(func() { _ = b.Close() })
	return b
}

// bound opens a broker with one queue, bound to the topics.
func (r *rig) bound(cfg Config, topics ...string) (b *Broker, queue string) {
	r.t.Helper()
	b, queue = r.open(cfg), r.queue()
	r.bind(b, queue, topics...)
	return b, queue
}

func (r *rig) bind(b *Broker, queue string, topics ...string) {
	r.t.Helper()
	if err := b.Bind(r.t.Context(), queue, topics...); err != nil {
		r.t.Fatalf("Bind: %v", err)
	}
}

func (r *rig) subscribe(b *Broker, queue string) <-chan *message.Message {
	r.t.Helper()
	messages, err := b.Subscribe(r.t.Context(), queue)
	if err != nil {
		r.t.Fatalf("Subscribe: %v", err)
	}
	return messages
}

// get takes one message from the queue by plain AMQP.
func (r *rig) get(queue string) amqp.Delivery {
	r.t.Helper()
	for range 100 {
		d, ok, err := r.ch.Get(queue, true)
		if err != nil {
			r.t.Fatalf("get from %s: %v", queue, err)
		}
		if ok {
			return d
		}
		<-time.After(20 * time.Millisecond)
	}
	r.t.Fatalf("no message in queue %s", queue)
	return amqp.Delivery{}
}

// payloads empties the queue by plain AMQP.
func (r *rig) payloads(queue string) (payloads []string) {
	r.t.Helper()
	for {
		d, ok, err := r.ch.Get(queue, true)
		if err != nil {
			r.t.Fatalf("get from %s: %v", queue, err)
		}
		if !ok {
			return payloads
		}
		payloads = append(payloads, string(d.Body))
	}
}

// receive takes n messages, acking them, and returns their payloads.
func (r *rig) receive(messages <-chan *message.Message, n int) (payloads []string) {
	r.t.Helper()
	for len(payloads) < n {
		msg := r.next(messages)
		payloads = append(payloads, string(msg.Payload))
		msg.Ack()
	}
	return payloads
}

func (r *rig) next(messages <-chan *message.Message) *message.Message {
	r.t.Helper()
	select {
	case msg, ok := <-messages:
		if !ok {
			r.t.Fatal("the subscription ended")
		}
		return msg
	case <-time.After(10 * time.Second):
		r.t.Fatal("no message within 10 s")
	}
	return nil
}

func newMessage(payload string) *message.Message {
	return message.NewMessage(watermill.NewUUID(), []byte(payload))
}

// series makes messages with the payloads 0, 1, 2 …, all for one topic.
func series(topic string, n int) (topics []string, msgs []*message.Message) {
	for i := range n {
		topics = append(topics, topic)
		msgs = append(msgs, newMessage(fmt.Sprint(i)))
	}
	return topics, msgs
}

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
