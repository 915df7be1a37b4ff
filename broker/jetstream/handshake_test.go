package jetstream_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/broker/jetstream"
)

// TestSlowHandshake: a server that is there and busy is waited for as long as for its other answers.
func TestSlowHandshake(t *testing.T) {
	t.Parallel()
	p := startProxy(t, startServer(t, t.TempDir(), -1).Addr().String())
	p.stall()
	time.AfterFunc(3*time.Second, p.resume)
	mustBind(t, open(t, p.url(), jetstream.Config{}), "q", "account")
}

// TestHandshakeEndsWithItsContext: nobody waits for a server that says nothing when its caller does not.
func TestHandshakeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	p := startProxy(t, startServer(t, t.TempDir(), -1).Addr().String())
	p.stall()
	ctx, cancel := context.WithCancelCause(t.Context())
	errStopped := errors.New("stopped")
	time.AfterFunc(200*time.Millisecond, func() { cancel(errStopped) })
	if _, err := jetstream.Open(ctx, p.url(), jetstream.Config{ConfirmTimeout: time.Hour}); !errors.Is(err, errStopped) {
		t.Errorf("have error %v, want %v", err, errStopped)
	}
}
