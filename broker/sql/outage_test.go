package sql_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/broker/sql"
)

// lease is long enough for a busy machine to renew it in time.
const lease = 6 * time.Second

// TestCutOff: what a consumer holds that cannot be reached any more goes to the others when its lease is
// over, in its old order; and when it is back, its late acknowledgement counts.
func TestCutOff(t *testing.T) {
	t.Parallel()
	db, at := newRig(t)
	way := startProxy(t, at)
	other := open(t, at, sql.Config{Lease: lease})
	lost := open(t, way.url, sql.Config{Lease: lease})
	bind(t, other, "billing", "account")
	publish(t, other, "0", "1", "2")
	held := subscribe(t, lost)
	first := next(t, held)
	out := subscribe(t, other)
	nothing(t, out, lease*3/2) // it is renewed
	way.cut()
	again := next(t, out)
	if diff := cmp.Diff([]string{"0", "1", "2"}, append([]string{string(again.Payload)}, take(t, out, 2)...)); diff != "" {
		t.Errorf("given back (-want +have):\n%s", diff)
	}
	first.Ack()
	way.mend()
	until(t, "the late acknowledgement deletes the message", func() bool {
		return stored(t, db) == 0
	})
	again.Nack() // too late: it has been acknowledged
	publish(t, other, "3")
	next3 := func() string {
		select {
		case msg := <-out:
			msg.Ack()
			return string(msg.Payload)
		case msg := <-held: // "1" and "2", which it took before it was cut off, come late and twice
			msg.Ack()
			return string(msg.Payload)
		case <-time.After(patience):
			t.Fatal("no message came")
			return ""
		}
	}
	for next3() != "3" {
	}
	until(t, "the queue is empty", func() bool { return stored(t, db) == 0 })
}

// TestFrozenServer: a server that does not answer is an outage, for as long as ConfirmTimeout says; what
// was behind does not overtake; and all goes on when it answers again.
func TestFrozenServer(t *testing.T) {
	t.Parallel()
	_, at := newRig(t)
	way := startProxy(t, at)
	const timeout = 3 * time.Second // within which a busy disk answers, too
	b := open(t, way.url, sql.Config{ConfirmTimeout: timeout})
	bind(t, b, "billing", "account")
	out := subscribe(t, b)
	publish(t, b, "before")
	take(t, out, 1)

	way.stall()
	began := time.Now()
	first := b.PublishAsync(t.Context(), []string{"account"}, messages("1"))
	second := b.PublishAsync(t.Context(), []string{"account"}, messages("2"))
	err := errors.Join(first(t.Context())...)
	if refusal(err) != "outage" {
		t.Errorf("a frozen server: %v, want an outage", err)
	}
	if took := time.Since(began); took >= sql.DefaultTimeout {
		t.Errorf("it took %v to give up, ConfirmTimeout is %v", took, timeout)
	}
	third := b.PublishAsync(t.Context(), []string{"account"}, messages("3"))
	if err := errors.Join(third(t.Context())...); refusal(err) != "outage" {
		t.Errorf("behind a message in doubt: %v, want an outage", err)
	}
	if err := errors.Join(second(t.Context())...); refusal(err) != "outage" {
		t.Errorf("the second call: %v, want an outage", err)
	}
	way.mend()
	until(t, "publishing goes on", func() bool { return b.Publish("account", messages("after")...) == nil })
	for string(next(t, out).Payload) != "after" { // "1" may come before: it may have been stored
	}
}

// TestNothingOvertakes: after a failure, later calls fail too, until every failed one has been told.
func TestNothingOvertakes(t *testing.T) {
	t.Parallel()
	_, at := newRig(t)
	way := startProxy(t, at)
	b := open(t, way.url, sql.Config{ConfirmTimeout: 6 * time.Second})
	bind(t, b, "billing", "account")
	way.cut()
	call := func(body string) func() error {
		wait := b.PublishAsync(t.Context(), []string{"account"}, messages(body))
		return func() error { return errors.Join(wait(t.Context())...) }
	}
	first := call("1")
	until(t, "the failure is noticed", func() bool { // calls before that fail with it
		return errors.Is(call("2")(), sql.ErrInDoubt)
	})
	way.mend()
	third := call("3")
	if err := first(); refusal(err) != "outage" || errors.Is(err, sql.ErrInDoubt) {
		t.Errorf("the first call: %v, want why it failed", err)
	}
	fourth := call("4") // nobody has been told of the third
	if err := third(); !errors.Is(err, sql.ErrInDoubt) {
		t.Errorf("sent while the first was in doubt: %v, want ErrInDoubt", err)
	}
	if err := fourth(); !errors.Is(err, sql.ErrInDoubt) {
		t.Errorf("sent while the third was in doubt: %v, want ErrInDoubt", err)
	}
	if err := call("5")(); err != nil {
		t.Errorf("after all were told: %v", err)
	}
}

// TestCloseWhileAway: Close ends in time although nothing can be given back, and what it held comes again.
func TestCloseWhileAway(t *testing.T) {
	t.Parallel()
	_, at := newRig(t)
	way := startProxy(t, at)
	other := open(t, at, sql.Config{Lease: time.Second})
	bind(t, other, "billing", "account")
	publish(t, other, "1")
	b, err := sql.Open(t.Context(), way.url, sql.Config{Lease: time.Second, ConfirmTimeout: 3 * time.Second})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	next(t, subscribe(t, b))
	way.stall()
	began := time.Now()
	_ = b.Close() // its error is the database's
	if took := time.Since(began); took > patience/2 {
		t.Errorf("Close took %v", took)
	}
	take(t, subscribe(t, other), 1)
}

// TestAwaySince: a Broker knows since when its subscriptions cannot read.
func TestAwaySince(t *testing.T) {
	t.Parallel()
	_, at := newRig(t)
	way := startProxy(t, at)
	b := open(t, way.url, sql.Config{Lease: lease})
	bind(t, b, "billing", "account")
	subscribe(t, b)
	if since := b.AwaySince(); !since.IsZero() {
		t.Errorf("connected: away since %v, want never", since)
	}
	began := time.Now()
	way.cut()
	until(t, "away", func() bool { return b.AwaySince().After(began) })
	way.mend()
	until(t, "there again", func() bool { return b.AwaySince().IsZero() })
}
