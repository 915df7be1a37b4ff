package sql_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/broker/sql"
	"github.com/lockstep-go/lockstep/event"
)

// TestWhatCannotBeStoredIsRefusedAlone: what can never be stored is refused, alone, whether we see it or PostgreSQL does.
func TestWhatCannotBeStoredIsRefusedAlone(t *testing.T) {
	t.Parallel()
	db, at := newRig(t)
	b := open(t, at, sql.Config{MaxSize: 1000})
	bind(t, b, "billing", "account", strings.Repeat("x", 512))
	execute(t, db, `ALTER TABLE messages ADD CHECK (payload <> 'poison')`)
	sent := []struct {
		topic, uuid, body, want string
		metadata                message.Metadata
	}{
		{"account", "1", "first", "stored", nil},
		{"account", "2", "poison", "refused", nil},
		{"account", "3", strings.Repeat("x", 1001), "refused", nil},
		{"account", "4", "", "refused", message.Metadata{"k": strings.Repeat("x", 1001)}},
		{"account", "5\x00", "", "refused", nil},
		{"account", "6\xff", "", "refused", nil},
		{"account\x00", "7", "", "refused", nil},
		{"", "8", "", "refused", nil},
		{"account", "9", "", "refused", message.Metadata{event.MetadataTTL: "99999999999999"}},
		{"author", "10", "poison", "unroutable", nil},
		{strings.Repeat("x", 512), "11", "\x00\xff", "stored", message.Metadata{"k": "\x00\xffv"}},
		{"account", strings.Repeat("long", 20), "last", "stored", nil},
	}
	var topics, want, have []string
	var msgs []*message.Message
	for _, s := range sent {
		msg := message.NewMessage(s.uuid, []byte(s.body))
		msg.Metadata = s.metadata
		topics, msgs, want = append(topics, s.topic), append(msgs, msg), append(want, s.want)
	}
	for _, err := range b.PublishAsync(t.Context(), topics, msgs)(t.Context()) {
		have = append(have, refusal(err))
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("outcomes (-want +have):\n%s", diff)
	}
	out := subscribe(t, b)
	if diff := cmp.Diff([]string{"first", "\x00\xff", "last"}, take(t, out, 3)); diff != "" {
		t.Errorf("bodies (-want +have):\n%s", diff)
	}
	if err := b.PublishAfter(t.Context(), 200*365*24*time.Hour, "account", message.NewMessage("", nil)); refusal(err) != "refused" {
		t.Errorf("a delay of two centuries: %v, want a refusal", err)
	}
}

// TestOnDisk: a confirmed message is on the disk although the role's commits are not. A trigger looks.
func TestOnDisk(t *testing.T) {
	t.Parallel()
	db, at := newRig(t)
	b := open(t, at+"&synchronous_commit=off", sql.Config{})
	bind(t, b, "billing", "account")
	execute(t, db, `CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.uuid = current_setting('synchronous_commit');
	RETURN NEW;
END $$;
CREATE TRIGGER look BEFORE INSERT ON messages FOR EACH ROW EXECUTE FUNCTION look()`)
	publish(t, b, "1")
	if have := next(t, subscribe(t, b)).UUID; have != "on" {
		t.Errorf("synchronous_commit is %s where a message is stored, want on", have)
	}
}

// TestSideBySide: processes that publish and consume at once; each message comes once, and each
// publisher's messages reach a consumer in their order.
func TestSideBySide(t *testing.T) {
	t.Parallel()
	const publishers, calls, size = 3, 20, 25
	db, at := newRig(t)
	bind(t, open(t, at, sql.Config{}), "billing", "account")
	for p := range publishers {
		b := open(t, at, sql.Config{})
		go func() {
			for c := range calls {
				var bodies []string
				for i := range size {
					bodies = append(bodies, fmt.Sprintf("%d %04d", p, c*size+i))
				}
				if err := b.Publish("account", messages(bodies...)...); err != nil {
					t.Errorf("Publish: %v", err)
				}
			}
		}()
	}
	one := subscribe(t, open(t, at, sql.Config{Prefetch: 50}))
	two := subscribe(t, open(t, at, sql.Config{Prefetch: 50}))
	var have, want []string
	for range publishers * calls * size {
		var msg *message.Message
		select {
		case msg = <-one:
		case msg = <-two:
		case <-time.After(patience):
			t.Fatalf("%d messages came", len(have))
		}
		have = append(have, string(msg.Payload))
		msg.Ack()
	}
	for p := range publishers {
		for i := range calls * size {
			want = append(want, fmt.Sprintf("%d %04d", p, i))
		}
	}
	slices.Sort(have)
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("messages (-want +have):\n%s", diff)
	}
	until(t, "all are deleted", func() bool { return stored(t, db) == 0 })
}

// TestOpenTransaction: a transaction that stays open stops nothing, and a message that commits late, with
// an offset below those that have been read, is not forgotten.
func TestOpenTransaction(t *testing.T) {
	t.Parallel()
	db, at := newRig(t)
	b := open(t, at, sql.Config{})
	bind(t, b, "billing", "account")
	out := subscribe(t, b)
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(t.Context(), `INSERT INTO messages (queue, uuid, payload) SELECT id, 'late', 'late' FROM queues WHERE name = 'billing'`); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		bodies := numbers(100*i, 100*i+100)
		publish(t, b, bodies...)
		if diff := cmp.Diff(bodies, take(t, out, 100)); diff != "" {
			t.Fatalf("beside an open transaction (-want +have):\n%s", diff)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"late"}, take(t, out, 1)); diff != "" {
		t.Errorf("committed late (-want +have):\n%s", diff)
	}
}

// TestPublishAsyncBlocksWhileTheWindowIsFull: PublishAsync blocks while too many messages wait, and not for longer than ConfirmTimeout.
func TestPublishAsyncBlocksWhileTheWindowIsFull(t *testing.T) {
	t.Parallel()
	db, at := newRig(t)
	const timeout = 3 * time.Second
	b := open(t, at, sql.Config{Window: 10, ConfirmTimeout: timeout})
	bind(t, b, "billing", "account")
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(t.Context(), `LOCK TABLE messages IN EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for i := range 3 {
		wait := b.PublishAsync(t.Context(), slices.Repeat([]string{"account"}, 8), messages(numbers(0, 8)...))
		defer wait(t.Context())
		if took := time.Since(began); i == 0 && took >= timeout || took > patience/2 {
			t.Errorf("call %d returned after %v", i, took)
		}
		if i == 1 && time.Since(began) < timeout/2 {
			t.Error("the second call did not wait for room")
		}
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := b.Publish("account", messages("x")...); !errors.Is(err, sql.ErrClosed) {
		t.Errorf("after Close: %v, want ErrClosed", err)
	}
	if _, err := b.Bound(t.Context(), "account"); !errors.Is(err, sql.ErrClosed) {
		t.Errorf("Bound after Close: %v, want ErrClosed", err)
	}
}

// TestGivenUpIsNotOvertaken: what is queued behind a message that its sender has given up, and will send
// again, is not stored before it.
func TestGivenUpIsNotOvertaken(t *testing.T) {
	t.Parallel()
	db, at := newRig(t)
	b := open(t, at, sql.Config{})
	bind(t, b, "billing", "account")
	tx, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(t.Context(), `LOCK TABLE messages IN EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	var waits []func(context.Context) []error
	for i := range 3 {
		waits = append(waits, b.PublishAsync(t.Context(), []string{"account"}, messages(numbers(i, i+1)...)))
		until(t, "the first one is on its way", func() bool {
			var waiting int
			const locks = `SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'messages'::regclass`
			if err := db.QueryRowContext(t.Context(), locks).Scan(&waiting); err != nil {
				t.Fatal(err)
			}
			return waiting == 1
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := errors.Join(waits[1](ctx)...); refusal(err) != "outage" {
		t.Errorf("given up: %v, want an outage", err)
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(waits[0](t.Context())...); err != nil {
		t.Errorf("the first: %v", err)
	}
	if err := errors.Join(waits[2](t.Context())...); !errors.Is(err, sql.ErrInDoubt) {
		t.Errorf("behind the one given up: %v, want ErrInDoubt", err)
	}
	publish(t, b, "1", "2")
	if diff := cmp.Diff([]string{"0", "1", "2"}, take(t, subscribe(t, b), 3)); diff != "" {
		t.Errorf("order (-want +have):\n%s", diff)
	}
}
