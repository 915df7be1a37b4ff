package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/lockstep-go/lockstep/broker/jetstream"
)

func bodies(from, to int) []string {
	var all []string
	for i := from; i < to; i++ {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

func messages(bodies ...string) []*message.Message {
	var msgs []*message.Message
	for _, body := range bodies {
		msgs = append(msgs, message.NewMessage("id-"+body, []byte(body)))
	}
	return msgs
}

func subscribe(t *testing.T, b *jetstream.Broker, queue string) <-chan *message.Message {
	t.Helper()
	msgs, err := b.Subscribe(t.Context(), queue)
	if err != nil {
		t.Fatalf("Subscribe(%q): %v", queue, err)
	}
	return msgs
}

// patience is how long anything may take that must happen, on a machine that is busy with other tests.
const patience = time.Minute

func next(t *testing.T, msgs <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case msg, ok := <-msgs:
		if !ok {
			t.Fatal("the channel was closed, want a message")
		}
		return msg
	case <-time.After(patience):
		t.Fatalf("no message came within %v", patience)
	}
	return nil
}

func take(t *testing.T, msgs <-chan *message.Message, n int) []string {
	t.Helper()
	var have []string
	for range n {
		msg := next(t, msgs)
		have = append(have, string(msg.Payload))
		msg.Ack()
	}
	return have
}

func same(t *testing.T, what string, want, have any) {
	t.Helper()
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("%s (-want +have):\n%s", what, diff)
	}
}

func mustBind(t testing.TB, b *jetstream.Broker, queue string, topics ...string) {
	t.Helper()
	if err := b.Bind(context.Background(), queue, topics...); err != nil {
		t.Fatalf("Bind: %v", err)
	}
}

func mustPublish(t testing.TB, b *jetstream.Broker, topic string, bodies ...string) {
	t.Helper()
	if err := b.Publish(topic, messages(bodies...)...); err != nil {
		t.Fatalf("Publish: %v", err)
	}
}

// eventually publishes one message as soon as there is a connection.
func eventually(t *testing.T, b *jetstream.Broker, topic, body string) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	timeout := time.After(time.Minute)
	for {
		err := b.Publish(topic, messages(body)...)
		if err == nil {
			return
		}
		if !errors.Is(err, jetstream.ErrNotConnected) && !errors.Is(err, jetstream.ErrUnavailable) {
			t.Fatalf("Publish during an outage: %v", err)
		}
		select {
		case <-ticker.C:
		case <-timeout:
			t.Fatalf("no connection: %v", err)
		}
	}
}

// restart replaces a server by one with the same address.
func restart(t *testing.T, srv *server.Server, dir string) {
	t.Helper()
	addr, ok := srv.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatal("the server does not listen")
	}
	stopServer(srv)
	startServer(t, dir, addr.Port)
}

// TestServerRestart: publishing and a subscription go on after a restart of
// the server, nothing confirmed is lost, what was in hand can be settled.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := startServer(t, dir, -1)
	b := open(t, srv.ClientURL(), jetstream.Config{Prefetch: 5})
	mustBind(t, b, "q", "account")
	msgs := subscribe(t, b, "q")
	mustPublish(t, b, "account", bodies(0, 20)...)
	held := []*message.Message{next(t, msgs), next(t, msgs)}
	restart(t, srv, dir)
	eventually(t, b, "account", "20")
	for _, msg := range held {
		msg.Ack()
	}
	same(t, "bodies", bodies(2, 21), take(t, msgs, 19))
}

// TestServerLosesEverything: queues are declared again on a server that knows
// nothing of them.
func TestServerLosesEverything(t *testing.T) {
	t.Parallel()
	srv := startServer(t, t.TempDir(), -1)
	b := open(t, srv.ClientURL(), jetstream.Config{})
	mustBind(t, b, "q", "account")
	mustBind(t, b, "other", "author", "account")
	msgs := subscribe(t, b, "q")
	restart(t, srv, t.TempDir())
	eventually(t, b, "account", "0")
	mustPublish(t, b, "author", "1")
	same(t, "q", bodies(0, 1), take(t, msgs, 1))
	same(t, "other", bodies(0, 2), take(t, subscribe(t, b, "other"), 2))
}

// logged is a slog.Handler that passes on the messages.
type logged chan string

func (l logged) Enabled(context.Context, slog.Level) bool { return true }
func (l logged) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l logged) WithGroup(string) slog.Handler            { return l }

func (l logged) Handle(_ context.Context, r slog.Record) error {
	l <- r.Message
	return nil
}

func (l logged) await(t *testing.T, want string) {
	t.Helper()
	for timeout := time.After(time.Minute); ; {
		select {
		case have := <-l:
			if have == want {
				return
			}
		case <-timeout:
			t.Fatalf("nothing was logged that says %q", want)
		}
	}
}

// TestNothingOvertakesALostMessage: after a lost connection nothing is sent
// until the caller knows what became of all that was sent before.
func TestNothingOvertakesALostMessage(t *testing.T) {
	t.Parallel()
	srv := startServer(t, t.TempDir(), -1)
	p := startProxy(t, srv.Addr().String())
	log := make(logged, 1000)
	b := open(t, p.url(), jetstream.Config{Logger: slog.New(log)})
	mustBind(t, b, "q", "account")
	mustPublish(t, b, "account", "0")

	p.stall()
	wait := b.PublishAsync(t.Context(), []string{"account", "account"}, messages("1", "2"))
	p.cut()
	log.await(t, "jetstream: connected again")
	if err := b.Publish("account", messages("3")...); !errors.Is(err, jetstream.ErrInDoubt) {
		t.Fatalf("Publish while earlier messages may be lost: have %v, want ErrInDoubt", err)
	}
	errs := wait(t.Context())
	if len(errs) != 2 || !errors.Is(errs[0], jetstream.ErrNotConnected) || !errors.Is(errs[1], jetstream.ErrNotConnected) {
		t.Fatalf("outcomes of the lost messages: %v", errs)
	}
	mustPublish(t, b, "account", bodies(1, 4)...)
	same(t, "bodies", bodies(0, 4), take(t, subscribe(t, b, "q"), 4))
}

// TestStalledServer: a server that is there and does not answer costs no more
// than the timeout, and the flow goes on when it answers again.
func TestStalledServer(t *testing.T) {
	t.Parallel()
	const timeout = 3 * time.Second // within which a busy machine answers, too
	srv := startServer(t, t.TempDir(), -1)
	p := startProxy(t, srv.Addr().String())
	b := open(t, p.url(), jetstream.Config{ConfirmTimeout: timeout, Window: 10})
	mustBind(t, b, "q", "account")
	mustPublish(t, b, "account", "0")
	p.stall()
	inTime := func(what string, do func()) {
		t.Helper()
		start := time.Now()
		do()
		if d := time.Since(start); d > timeout+5*time.Second {
			t.Errorf("%s took %v", what, d)
		}
	}
	var wait func(context.Context) []error
	inTime("PublishAsync", func() {
		wait = b.PublishAsync(t.Context(), slices.Repeat([]string{"account"}, 30), messages(bodies(0, 30)...))
	})
	inTime("wait", func() {
		for i, err := range wait(t.Context()) {
			if !errors.Is(err, jetstream.ErrUnconfirmed) {
				t.Errorf("message %d: have %v, want ErrUnconfirmed", i, err)
			}
		}
	})
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	inTime("wait with an ended context", func() {
		wait := b.PublishAsync(t.Context(), []string{"account"}, messages("x")) //nolint:contextcheck // two contexts are the point
		errs := wait(canceled)
		if len(errs) != 1 || !errors.Is(errs[0], context.Canceled) {
			t.Errorf("have %v, want context.Canceled", errs)
		}
	})
	inTime("Bind", func() {
		if err := b.Bind(t.Context(), "q", "author"); err == nil {
			t.Error("Bind: no error")
		}
	})
	p.resume()
	eventually(t, b, "account", "last")
	next(t, subscribe(t, b, "q"))
	p.stall()
	inTime("Close", func() { _ = b.Close() })
}

// TestSilentConnection: a connection on which nothing comes any more, and that
// nobody ends, is given up, also by a Broker that only subscribes.
func TestSilentConnection(t *testing.T) {
	t.Parallel()
	srv := startServer(t, t.TempDir(), -1)
	p := startProxy(t, srv.Addr().String())
	log := make(logged, 1000)
	b := open(t, p.url(), jetstream.Config{AckWait: time.Second, Logger: slog.New(log)})
	mustBind(t, b, "q", "account")
	msgs := subscribe(t, b, "q")
	other := open(t, srv.ClientURL(), jetstream.Config{})
	mustPublish(t, other, "account", "0")
	same(t, "before", bodies(0, 1), take(t, msgs, 1))
	p.freeze()
	start := time.Now()
	mustPublish(t, other, "account", "1")
	for have := ""; have != "1"; { // the acknowledgement of the first may be lost
		msg := next(t, msgs)
		have = string(msg.Payload)
		msg.Ack()
	}
	if took := time.Since(start); took > 50*time.Second {
		t.Errorf("consuming went on after %v, want it after two unanswered pings of 10 s", took)
	}
	log.await(t, "jetstream: connected again")
}

// TestHandover: what a subscription has not acknowledged at its end, and what
// is on its way to it, goes to the next one at once and in order.
func TestHandover(t *testing.T) {
	t.Parallel()
	const n, rounds, share = 3000, 5, 100
	srv := startServer(t, t.TempDir(), -1)
	old := open(t, srv.ClientURL(), jetstream.Config{AckWait: time.Minute}) // nothing comes by waiting
	mustBind(t, old, "q", "account")
	mustPublish(t, old, "account", bodies(0, n)...)
	for round := range rounds {
		b := open(t, srv.ClientURL(), jetstream.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		msgs, err := b.Subscribe(ctx, "q")
		if err != nil {
			t.Fatalf("Subscribe: %v", err)
		}
		same(t, "bodies", bodies(round*share, (round+1)*share), take(t, msgs, share))
		if round%2 == 0 {
			cancel() // gives back what is not handed on
		} else {
			for range share { // Close gives these back, too
				next(t, msgs)
			}
		}
		if err := b.Close(); err != nil {
			t.Fatalf("Close: %v", err)
		}
		cancel()
	}
	same(t, "bodies", bodies(rounds*share, n), take(t, subscribe(t, old, "q"), n-rounds*share))
}

// TestVanishedProcess: the messages of a process that was cut off come to
// another after AckWait; those of a living one do not, however long it takes.
func TestVanishedProcess(t *testing.T) {
	t.Parallel()
	srv := startServer(t, t.TempDir(), -1)
	p := startProxy(t, srv.Addr().String())
	const ackWait = 5 * time.Second // long enough for a busy machine to say in time that it is at work
	cfg := jetstream.Config{AckWait: ackWait, ConfirmTimeout: 5 * time.Second}
	slow, other := open(t, p.url(), cfg), open(t, srv.ClientURL(), cfg)
	mustBind(t, slow, "q", "account")
	mustPublish(t, slow, "account", bodies(0, 3)...)
	msgs := subscribe(t, slow, "q")
	for range 2 { // the third is in hand without being handed on
		next(t, msgs)
	}
	others := subscribe(t, other, "q")
	select {
	case msg := <-others:
		t.Fatalf("message %s of a living process came to another", msg.Payload)
	case <-time.After(ackWait * 3 / 2):
	}
	p.close() // slow is gone, as far as the server can see, perhaps with one of the three just renewed
	same(t, "bodies", bodies(0, 3), slices.Sorted(slices.Values(take(t, others, 3))))
}

// TestPermissions: an account that may not list consumers can still publish.
func TestPermissions(t *testing.T) {
	t.Parallel()
	const password = "s3cret"
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true,
		Users: []*server.User{{Username: "u", Password: password, Permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Deny: []string{"$JS.API.CONSUMER.LIST.>"}},
		}}},
	})
	if err != nil {
		t.Fatalf("NATS server: %v", err)
	}
	srv.Start()
	t.Cleanup(func() { stopServer(srv) })
	if !srv.ReadyForConnections(20 * time.Second) {
		t.Fatal("NATS server: not ready")
	}
	addr := srv.Addr().String()
	b := open(t, fmt.Sprintf("nats://u:%s@%s", password, addr), jetstream.Config{ConfirmTimeout: 3 * time.Second})
	mustBind(t, b, "q", "account")
	mustPublish(t, b, "account", "0")
	mustPublish(t, b, "unbound", "dropped")
	same(t, "bodies", bodies(0, 1), take(t, subscribe(t, b, "q"), 1))

	_, err = jetstream.Open(t.Context(), fmt.Sprintf("nats://u:%sX@%s", password, addr), jetstream.Config{})
	if err == nil || strings.Contains(err.Error(), password) {
		t.Errorf("Open with a wrong password: %v", err)
	}
}

// TestAwaySince: a Broker knows since when it has been without its server.
func TestAwaySince(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	srv := startServer(t, dir, -1)
	addr, ok := srv.Addr().(*net.TCPAddr)
	if !ok {
		t.Fatal("the server does not listen")
	}
	b := open(t, srv.ClientURL(), jetstream.Config{})
	if since := b.AwaySince(); !since.IsZero() {
		t.Errorf("connected: away since %v, want never", since)
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		looks := time.NewTicker(10 * time.Millisecond)
		defer looks.Stop()
		for deadline := time.After(time.Minute); !ok(); {
			select {
			case <-looks.C:
			case <-deadline:
				t.Fatalf("not %s: away since %v", what, b.AwaySince())
			}
		}
	}
	began := time.Now()
	stopServer(srv)
	until("away", func() bool { return b.AwaySince().After(began) })
	startServer(t, dir, addr.Port)
	until("connected again", func() bool { return b.AwaySince().IsZero() })
}
