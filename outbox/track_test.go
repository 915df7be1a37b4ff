package outbox_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/outbox"
)

func (m master) wantPrevious(t *testing.T, want ...string) {
	t.Helper()
	var have []string
	for _, e := range m.events(t) {
		have = append(have, string(e.Previous))
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("previous_data (-want +have):\n%s", diff)
	}
	m.exec(t, `DELETE FROM outbox`)
}

func TestPreviousData(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.exec(t, `ALTER TABLE accounts ADD COLUMN note TEXT`)
		m = m.account(t, outbox.Entity{Fields: []string{"id", "name"}, Tracked: []string{"name", "balance", "note"}})
		change := func(query string, keys ...any) {
			t.Helper()
			m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(tx.Track(ctx, "account", keys...), exec(ctx, tx, query), tx.Saved("account", keys...))
			})
		}
		m.save(t, `INSERT INTO accounts (id, name) VALUES (1, 'a')`, 1) // created without being tracked
		m.wantPrevious(t, `{"name":null,"balance":null}`)
		change(`INSERT INTO accounts (id, name, note) VALUES (2, 'b', 'x')`, 2) // tracked while it was not there
		m.wantPrevious(t, `{"name":null,"balance":null,"note":null}`)
		change(`UPDATE accounts SET name = 'c', note = 'y' WHERE id = 1`, 1)
		m.wantPrevious(t, `{"name":"a","note":null}`)
		change(`UPDATE accounts SET name = name`, 1)
		m.wantPrevious(t, `{}`)
		change(`UPDATE accounts SET balance = balance + id`, 2, 1)
		m.wantPrevious(t, `{"balance":0}`, `{"balance":0}`)
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error { // the first Track counts
			return errors.Join(
				tx.Track(ctx, "account", 1), exec(ctx, tx, `UPDATE accounts SET name = 'd' WHERE id = 1`), tx.Saved("account", 1),
				tx.Track(ctx, "account", 1), exec(ctx, tx, `UPDATE accounts SET balance = 9 WHERE id = 1`), tx.Saved("account", 1))
		})
		m.wantPrevious(t, `{"name":"c","balance":1}`)
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error { // and after an event, what that has said
			return errors.Join(
				tx.Track(ctx, "account", 1), exec(ctx, tx, `UPDATE accounts SET name = 'e' WHERE id = 1`), tx.Saved("account", 1), tx.Flush(ctx),
				exec(ctx, tx, `UPDATE accounts SET balance = 8 WHERE id = 1`), tx.Saved("account", 1))
		})
		m.wantPrevious(t, `{"name":"d"}`, `{"balance":9}`)
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(tx.Track(ctx, "account", 1), tx.Delete(ctx, "account", 1),
				exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'again')`), tx.Saved("account", 1))
		})
		m.wantPrevious(t, ``, `{"name":null,"balance":null}`)
		if _, err := m.ob.Sync(t.Context(), m.DB, "account", outbox.All, ""); err != nil {
			t.Fatal(err)
		}
		m.wantPrevious(t, ``, ``)
	})
}

func TestTrackAll(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m = m.account(t, outbox.Entity{Tracked: []string{outbox.TrackAll}})
		m.save(t, `INSERT INTO accounts (id, name) VALUES (1, 'a')`, 1)
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(tx.Track(ctx, "account", 1), exec(ctx, tx, `UPDATE accounts SET balance = 7`), tx.Saved("account", 1))
		})
		m.wantPrevious(t, `{"id":null,"name":null,"balance":null}`, `{"balance":0}`)
	})
}

func TestForgottenTrack(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m = m.account(t, outbox.Entity{Tracked: []string{"name"}})
		m.save(t, `INSERT INTO accounts (id, name) VALUES (1, 'a'), (2, 'b')`, 1, 2)
		check := func(err error) {
			t.Helper()
			var untracked *outbox.TrackError
			if !errors.As(err, &untracked) || untracked.Entity != "account" || cmp.Diff([]string{"2"}, untracked.Keys) != "" {
				t.Errorf("%v, want a TrackError that names account and 2", err)
			}
		}
		check(m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(tx.Track(ctx, "account", 1), exec(ctx, tx, `UPDATE accounts SET name = 'x'`), tx.Saved("account", 1, 2))
		}))
		// A savepoint that is rolled back releases the locks, so the values are not known any more.
		check(m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
			cause := errors.New("cause")
			if err := tx.Savepoint(ctx, func(ctx context.Context) error {
				return errors.Join(tx.Track(ctx, "account", 2), cause)
			}); !errors.Is(err, cause) {
				t.Error(err)
			}
			return errors.Join(exec(ctx, tx, `UPDATE accounts SET name = 'x'`), tx.Saved("account", 2))
		}))
		m.wantSent(t, sent{"account", "1", "SAVE", 1, "a"}, sent{"account", "2", "SAVE", 1, "b"})
	})
}

// Between Track and the change nobody else changes the row.
func TestTrackLocks(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m = m.account(t, outbox.Entity{Tracked: []string{"balance"}})
		m.save(t, `INSERT INTO accounts (id, name) VALUES (1, 'a')`, 1)
		tracked, done := make(chan struct{}), make(chan error, 1)
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			if err := tx.Track(ctx, "account", 1); err != nil {
				return err
			}
			go func() {
				close(tracked)
				_, err := m.ExecContext(ctx, `UPDATE accounts SET balance = 100`)
				done <- err
			}()
			<-tracked
			select {
			case err := <-done:
				t.Errorf("another transaction changed a tracked row (%v)", err)
			case <-time.After(200 * time.Millisecond):
			}
			return errors.Join(exec(ctx, tx, `UPDATE accounts SET balance = balance + 1`), tx.Saved("account", 1))
		})
		if err := <-done; err != nil {
			t.Error(err)
		}
		m.wantPrevious(t, `{"balance":null}`, `{"balance":0}`)
	})
}
