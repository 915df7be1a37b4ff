package jetstream_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	natsjs "github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-go/lockstep/broker/jetstream"
)

// openDir opens an embedded server that the test closes itself.
func openDir(t *testing.T, dir string, cfg jetstream.Config) *jetstream.Broker {
	t.Helper()
	b, err := jetstream.Open(t.Context(), "jetstream+embedded://"+dir, cfg)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	return b
}

func mustClose(t *testing.T, b *jetstream.Broker) {
	t.Helper()
	if err := b.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

// TestReopen: queues, messages, delayed messages and what was acknowledged
// survive; what was in hand comes again at once and in order, whether it was
// handed on or not.
func TestReopen(t *testing.T) {
	t.Parallel()
	const ackWait = time.Minute // so that nothing comes again by waiting
	dir := t.TempDir()
	b := openDir(t, dir, jetstream.Config{AckWait: ackWait})
	mustBind(t, b, "q", "account", "cqrs.q.account")
	mustPublish(t, b, "account", bodies(0, 30)...)
	if err := b.PublishAfter(t.Context(), 2*time.Second, "cqrs.q.account", messages("delayed")[0]); err != nil {
		t.Fatalf("PublishAfter: %v", err)
	}
	msgs := subscribe(t, b, "q")
	for range 10 {
		next(t, msgs).Ack()
	}
	for range 10 {
		next(t, msgs)
	}
	mustClose(t, b)

	b = openDir(t, dir, jetstream.Config{})
	start := time.Now()
	msgs = subscribe(t, b, "q")
	same(t, "bodies", bodies(10, 30), take(t, msgs, 20))
	if d := time.Since(start); d > ackWait/2 {
		t.Errorf("they came after %v", d)
	}
	same(t, "delayed", []string{"delayed"}, take(t, msgs, 1))
	select {
	case msg := <-msgs:
		t.Errorf("message %s came, want none", msg.Payload)
	case <-time.After(200 * time.Millisecond):
	}
	mustClose(t, b)
}

// TestOneServerPerFolder: two servers on the same files would destroy them.
func TestOneServerPerFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openDir(t, dir, jetstream.Config{})
	if second, err := jetstream.Open(t.Context(), "jetstream+embedded://"+dir, jetstream.Config{}); err == nil {
		mustClose(t, second)
		t.Error("a second Broker could open the folder")
	} else if !strings.Contains(err.Error(), "nats://") {
		t.Errorf("the error names no remedy: %v", err)
	}
	mustClose(t, b)
	mustClose(t, openDir(t, dir, jetstream.Config{}))
}

// killEnv makes the test binary the process that TestConfirmedIsThereAfterAKill kills. Its value is
// the folder.
const killEnv = "LOCKSTEP_TEST_KILL_DIR"

// TestConfirmedIsThereAfterAKill: what was confirmed before the process is killed is there after.
func TestConfirmedIsThereAfterAKill(t *testing.T) {
	if dir := os.Getenv(killEnv); dir != "" {
		publishUntilKilled(t, dir)
		return
	}
	t.Parallel()
	dir := t.TempDir()
	confirmed := runAndKill(t, dir)

	b := openDir(t, dir, jetstream.Config{})
	defer mustClose(t, b)
	missing := map[string]bool{}
	for _, body := range confirmed {
		missing[body] = true
	}
	msgs := subscribe(t, b, "q")
	for timeout := time.After(time.Minute); len(missing) > 0; {
		select {
		case msg := <-msgs:
			delete(missing, string(msg.Payload))
			msg.Ack()
		case <-timeout:
			t.Fatalf("%d of %d confirmed messages are lost", len(missing), len(confirmed))
		}
	}
}

// runAndKill starts this binary again, kills it while it publishes, and
// returns the bodies that it said were confirmed.
func runAndKill(t *testing.T, dir string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestConfirmedIsThereAfterAKill$")
	cmd.Env = append(os.Environ(), killEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("pipe: %v", err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start: %v", err)
	}
	var confirmed []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if body, ok := strings.CutPrefix(lines.Text(), "confirmed "); ok {
			confirmed = append(confirmed, body)
		}
		if len(confirmed) == 3000 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatalf("kill: %v", err)
			}
		}
	}
	_ = cmd.Wait() // says that it was killed
	if len(confirmed) < 3000 {
		t.Fatalf("the process ended by itself after %d messages", len(confirmed))
	}
	return confirmed
}

// publishUntilKilled publishes in calls of 100, every tenth message delayed.
func publishUntilKilled(t *testing.T, dir string) {
	b := openDir(t, dir, jetstream.Config{})
	mustBind(t, b, "q", "account")
	for i := 0; ; i += 100 {
		all := bodies(i, i+100)
		mustPublish(t, b, "account", all...)
		delayed := fmt.Sprintf("delayed %d", i)
		if err := b.PublishAfter(context.Background(), time.Second, "account", messages(delayed)[0]); err != nil {
			t.Fatalf("PublishAfter: %v", err)
		}
		for _, body := range append(all, delayed) {
			fmt.Println("confirmed " + body) //nolint:forbidigo // the parent reads it
		}
	}
}

// TestTooLarge: a message that the server will never take is refused for good,
// and no other one with it.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	b := open(t, "jetstream+embedded://"+t.TempDir(), jetstream.Config{})
	mustBind(t, b, "q", "account")
	msgs := messages("0", "body", "head", "topic", "4")
	msgs[1].Payload = make([]byte, 9<<20)
	msgs[2].Metadata.Set("key", strings.Repeat("x", 70<<10))
	topics := []string{"account", "account", "account", strings.Repeat("t", 5000), "account"}
	errs := b.PublishAsync(t.Context(), topics, msgs)(t.Context())
	for i, wantRefused := range []bool{false, true, true, true, false} {
		var refused *jetstream.RefusedError
		isRefused := len(errs) == 5 && errors.As(errs[i], &refused) && refused.Permanent() && !refused.Unroutable()
		if isRefused != wantRefused || (!wantRefused && errs[i] != nil) {
			t.Errorf("message %d: have %v, want refused: %v", i, errs[i], wantRefused)
		}
	}
	same(t, "bodies", []string{"0", "4"}, take(t, subscribe(t, b, "q"), 2))
	big := messages("big")[0]
	big.Payload = make([]byte, 7<<20)
	if err := b.Publish("account", big); err != nil {
		t.Errorf("a message of 7 MiB: %v", err)
	}
}

// TestUnfitStream: a stream that could lose messages is refused, with all the
// reasons, and left alone.
func TestUnfitStream(t *testing.T) {
	t.Parallel()
	srv := startServer(t, t.TempDir(), -1)
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer nc.Close()
	js, err := natsjs.New(nc)
	if err != nil {
		t.Fatalf("jetstream: %v", err)
	}
	_, err = js.CreateStream(t.Context(), natsjs.StreamConfig{Name: "cqrs", Subjects: []string{"cqrs.*"}, MaxAge: time.Hour, PersistMode: natsjs.AsyncPersistMode})
	if err != nil {
		t.Fatalf("stream: %v", err)
	}
	_, err = jetstream.Open(t.Context(), srv.ClientURL(), jetstream.Config{})
	if err == nil {
		t.Fatal("Open: no error")
	}
	for _, want := range []string{`"cqrs.>"`, `"cqrs-delay.>"`, "retention", "max_age", "persist_mode", "allow_msg_ttl", "2.12"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not speak of %s: %v", want, err)
		}
	}
	open(t, srv.ClientURL()+"?stream=other", jetstream.Config{}) // beside it is room
}

// TestForeignMessages: what other programs publish on the stream's subjects is
// delivered, with an identity that stays the same when it is delivered again.
func TestForeignMessages(t *testing.T) {
	t.Parallel()
	srv := startServer(t, t.TempDir(), -1)
	b := open(t, srv.ClientURL(), jetstream.Config{})
	mustBind(t, b, "q", "account")
	nc, err := nats.Connect(srv.ClientURL())
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer nc.Close()
	for _, msg := range []*nats.Msg{
		{Subject: "cqrs.account", Data: []byte("bare")},
		{Subject: "cqrs.account", Data: []byte("named"), Header: nats.Header{"Nats-Msg-Id": {"its id"}, "key": {"value", "second"}}},
	} {
		if _, err := nc.RequestMsg(msg, 10*time.Second); err != nil {
			t.Fatalf("publish: %v", err)
		}
	}
	msgs := subscribe(t, b, "q")
	first := []*message.Message{next(t, msgs), next(t, msgs)}
	for _, msg := range first {
		msg.Nack()
		again := next(t, msgs)
		again.Ack()
		same(t, "UUID", msg.UUID, again.UUID)
	}
	same(t, "UUIDs", []string{"cqrs-1", "its id"}, []string{first[0].UUID, first[1].UUID})
	same(t, "metadata", message.Metadata{"key": "value"}, first[1].Metadata)
}

// TestUnreachable: the error names each server, and neither user, password nor token.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	_, err := jetstream.Open(t.Context(), "nats://user:s3cret@127.0.0.1:1,nats://s3token@127.0.0.1:2", jetstream.Config{})
	if err == nil || !strings.Contains(err.Error(), "nats://127.0.0.1:1,nats://127.0.0.1:2") || strings.Contains(err.Error(), "s3") {
		t.Errorf("have %v, want an error that names the servers alone", err)
	}
}

// TestConfigRejects: all faults are told at once.
func TestConfigRejects(t *testing.T) {
	t.Parallel()
	cfg := jetstream.Config{Stream: "a.b", Replicas: 9, Prefetch: -1, Window: -1, ConfirmTimeout: -1, AckWait: time.Millisecond}
	_, err := jetstream.Open(t.Context(), "nats://127.0.0.1:1", cfg)
	if err == nil {
		t.Fatal("Open: no error")
	}
	for _, field := range []string{"Stream", "Replicas", "Prefetch", "Window", "ConfirmTimeout", "AckWait"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("the error does not name %s: %v", field, err)
		}
	}
}

// TestCloseLeavesNothing: no goroutine of ours or of the server outlives Close.
func TestCloseLeavesNothing(t *testing.T) { //nolint:paralleltest // counts goroutines
	use := func() {
		b := openDir(t, t.TempDir(), jetstream.Config{})
		mustBind(t, b, "q", "account")
		mustPublish(t, b, "account", bodies(0, 10)...)
		ctx, cancel := context.WithCancel(t.Context())
		msgs, err := b.Subscribe(ctx, "q")
		if err != nil {
			t.Fatalf("Subscribe: %v", err)
		}
		take(t, msgs, 5)
		next(t, msgs)
		cancel()
		next(t, subscribe(t, b, "q"))
		mustClose(t, b)
	}
	use() // what the libraries start once for all
	before := runtime.NumGoroutine()
	for range 3 {
		use()
	}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for timeout := time.After(time.Minute); runtime.NumGoroutine() > before; {
		select {
		case <-ticker.C:
		case <-timeout:
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}
