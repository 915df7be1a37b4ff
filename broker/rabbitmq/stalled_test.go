package rabbitmq

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// What is bounded by a ConfirmTimeout of a second or two ends soon; silence is when the heartbeats would
// end a connection, if nothing else did.
const (
	soon    = DefaultTimeout * 8 / 10
	silence = 2 * DefaultTimeout * 8 / 10
)

// TestStalledServer lets the server read nothing: first with little under way, then with more than
// all buffers hold, so that the writing itself hangs.
func TestStalledServer(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"few bytes": 10, "more than the buffers hold": 1 << 20} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			proxy, url := r.proxied()
			const timeout = time.Second // a busy disk may take longer once
			r.bound(Config{}, "account")
			b := r.openAt(url, Config{ConfirmTimeout: timeout})
			eventually(t, "publishing", func() bool { return b.Publish("account", newMessage("before")) == nil })
			proxy.stall()
			topics, msgs := series("account", 40)
			for _, msg := range msgs {
				msg.Payload = make([]byte, size)
			}
			start := time.Now()
			wait := b.PublishAsync(t.Context(), topics, msgs)
			if took := time.Since(start); took > soon {
				t.Errorf("PublishAsync took %v, want at most about %v", took, timeout)
			}
			start = time.Now()
			errs := wait(t.Context())
			if took := time.Since(start); took > soon {
				t.Errorf("wait took %v, want at most about %v", took, timeout)
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
			if took := time.Since(start); took > silence {
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
	r.bound(Config{}, "account") // for which a busy disk may take longer
	b := r.openAt(url, Config{ConfirmTimeout: time.Second})
	eventually(t, "publishing", func() bool { return b.Publish("account", newMessage("before")) == nil })
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
	if took := time.Since(start); took > silence {
		t.Errorf("publishing again took %v", took)
	}
}

func TestBlockedConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, url := r.proxied()
	log := &lines{}
	const timeout = 7 * time.Second // within which a busy disk answers, too
	b, queue := r.openAt(url, Config{ConfirmTimeout: timeout, Logger: log.logger()}), r.queue()
	r.bind(b, queue, "account")
	if err := b.Publish("account", newMessage("before")); err != nil {
		t.Fatal(err)
	}
	proxy.block(true)
	eventually(t, "the block logged", func() bool { return log.count("blocked by the server") > 0 })
	start := time.Now()
	errs := b.PublishAsync(t.Context(), []string{"account"}, []*message.Message{newMessage("blocked")})(t.Context())
	if took := time.Since(start); took > silence {
		t.Errorf("publishing took %v, want at most about twice %v", took, timeout)
	}
	if len(errs) != 1 || !outage(errs[0]) || !strings.Contains(errs[0].Error(), "block") {
		t.Errorf("have errors %v, want an outage that speaks of blocking", errs)
	}

	released := make(chan error, 1)
	go func() { released <- b.Publish("account", newMessage("after")) }()
	<-time.After(timeout / 40)
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
	if took := time.Since(start); took > silence {
		t.Errorf("Close took %v", took)
	}
	if errs := wait(t.Context()); len(errs) != 1 || !errors.Is(errs[0], ErrClosed) {
		t.Errorf("have errors %v, want %v", errs, ErrClosed)
	}
}
