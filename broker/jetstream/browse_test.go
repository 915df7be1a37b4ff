package jetstream_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/broker/jetstream"
)

// A look that takes longer than AckWait still sees each message once, and a restart
// of the embedded server does not hide what was looked at.
func TestBrowseSlowly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openDir(t, dir, jetstream.Config{AckWait: time.Second})
	if err := b.Bind(t.Context(), "letters", "letters"); err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"1", "2", "3"} {
		if err := b.Publish("letters", message.NewMessage(body, []byte(body))); err != nil {
			t.Fatal(err)
		}
	}
	browse := func(pause time.Duration) (bodies []string) {
		t.Helper()
		err := b.Browse(t.Context(), "letters", func(msg *message.Message) (bool, error) {
			bodies = append(bodies, string(msg.Payload))
			<-time.After(pause)
			return false, nil
		})
		if err != nil {
			t.Fatalf("Browse: %v", err)
		}
		return bodies
	}
	want := []string{"1", "2", "3"}
	if diff := cmp.Diff(want, browse(1300*time.Millisecond)); diff != "" {
		t.Errorf("seen slowly (-want +have):\n%s", diff)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = openDir(t, dir, jetstream.Config{})
	if diff := cmp.Diff(want, browse(0)); diff != "" {
		t.Errorf("seen after a restart (-want +have):\n%s", diff)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// A server, or a network, that halts for a moment hides no message from whoever looks.
func TestBrowseBesideAHalt(t *testing.T) {
	t.Parallel()
	srv := startServer(t, t.TempDir(), -1)
	p := startProxy(t, srv.Addr().String())
	b := open(t, p.url(), jetstream.Config{})
	mustBind(t, b, "letters", "letters")
	want := bodies(0, 500)
	mustPublish(t, b, "letters", want...)
	for range 2 {
		var have []string
		err := b.Browse(t.Context(), "letters", func(msg *message.Message) (bool, error) {
			if have = append(have, string(msg.Payload)); len(have) == 150 { // more are asked for soon
				p.stall()
				time.AfterFunc(2500*time.Millisecond, p.resume)
			}
			return false, nil
		})
		if err != nil {
			t.Fatalf("Browse: %v", err)
		}
		same(t, "seen", want, have)
	}
}
