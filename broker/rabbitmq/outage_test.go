package rabbitmq

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// outage reports whether err says nothing about the message.
func outage(err error) bool {
	var refused *RefusedError
	return err != nil && !errors.As(err, &refused)
}

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// eventually waits for ok, for at most ten seconds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
	t.Fatalf("not within 10 s: %s", what)
}

func TestUnreachableServerAtOpen(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // nobody listens there now
	_, err = Open(t.Context(), "amqp://user:secret@"+l.Addr().String()+"/", Config{})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) || strings.Contains(err.Error(), "secret") {
		t.Errorf("have error %v, want one with the address and without the password", err)
	}
}

func TestSilentServerAtOpen(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	start := time.Now()
	if _, err = Open(t.Context(), "amqp://"+l.Addr().String(), Config{DialTimeout: 200 * time.Millisecond}); err == nil {
		t.Error("want an error")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err = Open(ctx, "amqp://"+l.Addr().String(), Config{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("have error %v, want %v", err, context.DeadlineExceeded)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %v, want the timeouts to hold", took)
	}
}

// TestNothingConfirmedIsLost cuts the connections again and again while messages are published and
// consumed; what fails is sent again, as the relay does.
func TestNothingConfirmedIsLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, url := r.proxied()
	b, queue := r.openAt(url, Config{Window: 64}), r.queue()
	r.bind(b, queue, "account")
	messages := r.subscribe(b, queue)

	const n = 4000
	var mu sync.Mutex
	seen := map[string]int{}
	go func() {
		for msg := range messages {
			mu.Lock()
			seen[string(msg.Payload)]++
			mu.Unlock()
			msg.Ack()
		}
	}()
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}
	topics, msgs := series("account", n)
	outages := 0
	for call := 0; len(msgs) > 0; call++ {
		size := min(200, len(msgs))
		wait := b.PublishAsync(t.Context(), topics[:size], msgs[:size])
		if call%3 == 0 {
			<-time.After(rand.N(3 * time.Millisecond)) // cut at any point: nothing, a part, or all is confirmed
			proxy.cut()
		}
		var failed []*message.Message
		for i, err := range wait(t.Context()) {
			if err != nil {
				if !outage(err) {
					t.Fatalf("have error %v, want an outage", err)
				}
				failed = append(failed, msgs[i])
				outages++
			}
		}
		msgs = append(failed, msgs[size:]...)
	}
	eventually(t, "all messages received", func() bool { return count() == n })
	if outages == 0 {
		t.Error("no message was under way when the connection was cut; the test proved nothing")
	}
	eventually(t, "the queue empty and everything acked", func() bool {
		q, err := r.ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		return err == nil && q.Messages == 0
	})
}

func TestSubscriberRecovers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, url := r.proxied()
	log := &lines{}
	consumer, queue := r.openAt(url, Config{Logger: log.logger()}), r.queue()
	r.bind(consumer, queue, "account")
	messages := r.subscribe(consumer, queue)
	publisher := r.open(Config{})
	topics, msgs := series("account", 3)
	if errs := publisher.PublishAsync(t.Context(), topics, msgs)(t.Context()); errs != nil {
		t.Fatal(errs)
	}
	first, second := r.next(messages), r.next(messages)
	proxy.setRefuse(true)
	proxy.cut()
	second.Ack() // its channel is gone: no effect, no harm
	eventually(t, "the loss logged", func() bool { return log.count("connection lost") == 2 })
	<-time.After(300 * time.Millisecond) // several attempts
	proxy.setRefuse(false)

	if diff := cmp.Diff([]string{"0", "1", "2"}, r.receive(messages, 3)); diff != "" {
		t.Errorf("redelivered (-want +have):\n%s", diff)
	}
	first.Ack()
	topics, msgs = series("account", 5)
	if errs := publisher.PublishAsync(t.Context(), topics, msgs)(t.Context()); errs != nil {
		t.Fatal(errs)
	}
	if diff := cmp.Diff(numbers(5), r.receive(messages, 5)); diff != "" {
		t.Errorf("afterwards (-want +have):\n%s", diff)
	}
	eventually(t, "both connections back", func() bool { return log.count("connected again") == 2 })
	if lost := log.count("connection lost"); lost != 2 {
		t.Errorf("the loss of two connections was logged %d times, want once each", lost)
	}
}

// TestAcksOfALostChannel come when the same tags mean other messages.
func TestAcksOfALostChannel(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, url := r.proxied()
	b, queue := r.openAt(url, Config{}), r.queue()
	r.bind(b, queue, "account")
	messages := r.subscribe(b, queue)
	topics, msgs := series("account", 4)
	if errs := b.PublishAsync(t.Context(), topics, msgs)(t.Context()); errs != nil {
		t.Fatal(errs)
	}
	old := []*message.Message{r.next(messages), r.next(messages), r.next(messages)}
	proxy.cut()
	first := r.next(messages)
	for string(first.Payload) != "0" { // one more may have been on its way
		first = r.next(messages)
	}
	r.next(messages)
	old[0].Ack()
	old[1].Ack()
	old[2].Nack()
	for _, msg := range old {
		<-msg.Context().Done()
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	have := r.payloads(queue)
	slices.Sort(have)
	if diff := cmp.Diff(numbers(4), have); diff != "" {
		t.Errorf("left in the queue (-want +have):\n%s", diff)
	}
}

// TestStalledServer lets the server read nothing: first with little under way, then with more than
// all buffers hold, so that the writing itself hangs.
func TestStalledServer(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"few bytes": 10, "more than the buffers hold": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			proxy, url := r.proxied()
			const timeout = time.Second
			b, queue := r.openAt(url, Config{ConfirmTimeout: timeout}), r.queue()
			r.bind(b, queue, "account")
			if err := b.Publish("account", newMessage("before")); err != nil {
				t.Fatal(err)
			}
			proxy.stall()
			topics, msgs := series("account", 40)
			for _, msg := range msgs {
				msg.Payload = make([]byte, size)
			}
			start := time.Now()
			wait := b.PublishAsync(t.Context(), topics, msgs)
			if took := time.Since(start); took > timeout*3/2 {
				t.Errorf("PublishAsync took %v, want at most %v", took, timeout)
			}
			start = time.Now()
			errs := wait(t.Context())
			if took := time.Since(start); took > timeout*3/2 {
				t.Errorf("wait took %v, want at most %v", took, timeout)
			}
			for i, err := range errs {
				if !outage(err) {
					t.Errorf("message %d: have error %v, want an outage", i, err)
				}
			}
			if len(errs) != len(msgs) {
				t.Errorf("have %d errors, want %d", len(errs), len(msgs))
			}
			start = time.Now()
			eventually(t, "publishing again, on another connection", func() bool { return b.Publish("account", newMessage("after")) == nil })
			if took := time.Since(start); took > 3*timeout { // the server's heartbeat would take longer
				t.Errorf("publishing again took %v", took)
			}
		})
	}
}

// TestStalledWriteEnds has no caller left who would give the silent server up.
func TestStalledWriteEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, url := r.proxied()
	b, queue := r.openAt(url, Config{ConfirmTimeout: time.Second}), r.queue()
	r.bind(b, queue, "account")
	if err := b.Publish("account", newMessage("before")); err != nil {
		t.Fatal(err)
	}
	proxy.stall()
	topics, msgs := series("account", 40)
	for _, msg := range msgs {
		msg.Payload = make([]byte, 1<<20)
	}
	wait := b.PublishAsync(t.Context(), topics, msgs)
	eventually(t, "writing", func() bool { return b.publisher.last().inFlight() > 1 })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wait(ctx)
	start := time.Now()
	eventually(t, "publishing again", func() bool { return b.Publish("account", newMessage("after")) == nil })
	if took := time.Since(start); took > 4*time.Second { // the server's heartbeat would take longer
		t.Errorf("publishing again took %v", took)
	}
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

func TestBlockedConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, url := r.proxied()
	log := &lines{}
	const timeout = 500 * time.Millisecond
	b, queue := r.openAt(url, Config{ConfirmTimeout: timeout, Logger: log.logger()}), r.queue()
	r.bind(b, queue, "account")
	if err := b.Publish("account", newMessage("before")); err != nil {
		t.Fatal(err)
	}
	proxy.block(true)
	eventually(t, "the block logged", func() bool { return log.count("blocked by the server") > 0 })
	start := time.Now()
	errs := b.PublishAsync(t.Context(), []string{"account"}, []*message.Message{newMessage("blocked")})(t.Context())
	if took := time.Since(start); took > 3*timeout {
		t.Errorf("publishing took %v, want at most twice %v", took, timeout)
	}
	if len(errs) != 1 || !outage(errs[0]) || !strings.Contains(errs[0].Error(), "block") {
		t.Errorf("have errors %v, want an outage that speaks of blocking", errs)
	}

	released := make(chan error, 1)
	go func() { released <- b.Publish("account", newMessage("after")) }()
	<-time.After(timeout / 5)
	proxy.block(false)
	if err := <-released; err != nil {
		t.Errorf("Publish, unblocked in time: have error %v, want none", err)
	}
	if diff := cmp.Diff([]string{"before", "after"}, r.payloads(queue)); diff != "" {
		t.Errorf("queue (-want +have):\n%s", diff)
	}
	if n := log.count("connection lost"); n != 0 {
		t.Errorf("the connection was given up %d times, want it kept while the server says that it blocks", n)
	}
}

func TestTopologyIsDeclaredAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, url := r.proxied()
	b, queue := r.openAt(url, Config{}), r.queue()
	r.bind(b, queue, "account", "cqrs."+queue+".account")
	if err := b.Publish("account", newMessage("opens the channel")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ch.QueueDelete(queue, false, false, false); err != nil {
		t.Fatal(err)
	}
	if err := r.ch.ExchangeDelete(r.exchange, false, false); err != nil {
		t.Fatal(err)
	}
	proxy.cut()
	topics := []string{"account", "cqrs." + queue + ".account"}
	eventually(t, "both topics routable", func() bool {
		_, msgs := series("", 2)
		return b.PublishAsync(t.Context(), topics, msgs)(t.Context()) == nil
	})
}

// TestDeletedExchange is an outage until the exchange is declared again, not the messages' fault.
func TestDeletedExchange(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, _ := r.bound(Config{}, "account")
	if err := b.Publish("account", newMessage("opens the channel")); err != nil {
		t.Fatal(err)
	}
	if err := r.ch.ExchangeDelete(r.exchange, false, false); err != nil {
		t.Fatal(err)
	}
	topics, msgs := series("account", 10)
	for i, err := range b.PublishAsync(t.Context(), topics, msgs)(t.Context()) {
		if !outage(err) {
			t.Errorf("message %d: have error %v, want an outage", i, err)
		}
	}
	eventually(t, "publishing again", func() bool {
		return b.PublishAsync(t.Context(), topics, msgs)(t.Context()) == nil
	})
}

func TestDeletedQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	messages := r.subscribe(b, queue)
	if err := b.Publish("account", newMessage("0")); err != nil {
		t.Fatal(err)
	}
	r.receive(messages, 1)
	if _, err := r.ch.QueueDelete(queue, false, false, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the queue declared again and bound", func() bool {
		return b.PublishAsync(t.Context(), []string{"account"}, []*message.Message{newMessage("1")})(t.Context()) == nil
	})
	if diff := cmp.Diff([]string{"1"}, r.receive(messages, 1)); diff != "" {
		t.Errorf("consumed (-want +have):\n%s", diff)
	}
}

func TestCloseDoesNotHang(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, url := r.proxied()
	b, queue := r.openAt(url, Config{}), r.queue()
	r.bind(b, queue, "account")
	r.subscribe(b, queue)
	wait := b.PublishAsync(t.Context(), []string{"account"}, []*message.Message{newMessage("0")})
	if errs := wait(t.Context()); errs != nil {
		t.Fatal(errs)
	}
	proxy.stall()
	wait = b.PublishAsync(t.Context(), []string{"account"}, []*message.Message{newMessage("1")})
	start := time.Now()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 4*closeTimeout {
		t.Errorf("Close took %v", took)
	}
	if errs := wait(t.Context()); len(errs) != 1 || !errors.Is(errs[0], ErrClosed) {
		t.Errorf("have errors %v, want %v", errs, ErrClosed)
	}
}
