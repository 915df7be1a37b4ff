package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
)

var masterTables = []string{"accounts", "authors"}

const masterDDL = `
CREATE TABLE accounts (id BIGINT PRIMARY KEY, name TEXT NOT NULL, balance BIGINT NOT NULL, active BOOLEAN NOT NULL, note TEXT);
CREATE TABLE authors (id VARCHAR(40) PRIMARY KEY, name TEXT NOT NULL)`

// writer is one client of the master service. It has keys of its own, so that
// it knows which rows exist.
type writer struct {
	*demo
	number  int64
	pace    time.Duration // between two transactions
	random  *rand.Rand
	next    int64
	live    []int64 // accounts that exist
	deleted []int64 // accounts that do not exist any more

	transactions, rolledBack, written atomic.Int64
}

// newWriters makes one writer for a database with one writer at a time, else four.
func (d *demo) newWriters() {
	n := 4
	if d.Master.Dialect == migrations.SQLite {
		n = 1
	}
	var pace time.Duration
	if d.Rate > 0 {
		pace = time.Duration(n) * time.Second / time.Duration(d.Rate)
	}
	for i := range n {
		d.writers = append(d.writers, &writer{
			demo: d, number: int64(i), pace: pace,
			random: rand.New(rand.NewPCG(uint64(i), uint64(time.Now().UnixNano()))), //nolint:gosec // a demo's choice of work
		})
	}
}

// run writes until ctx ends. A transaction that has begun is finished.
func (w *writer) run(ctx context.Context) error {
	due := time.Now()
	for ctx.Err() == nil {
		if err := w.transaction(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		if w.pace == 0 {
			continue
		}
		due = due.Add(w.pace)
		if time.Since(due) > time.Second {
			due = time.Now() // it cannot keep up; do not try to catch up
		}
		timer := time.NewTimer(time.Until(due))
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// errChangedMind rolls a transaction back after everything in it was done.
var errChangedMind = errors.New("changed its mind")

// transaction does one piece of the master's work.
func (w *writer) transaction(ctx context.Context) error {
	before := state{w.next, append([]int64(nil), w.live...), append([]int64(nil), w.deleted...)}
	var events int64
	err := w.outbox.InTx(ctx, w.Master.DB, func(ctx context.Context, tx *outbox.Tx) error {
		var err error
		events, err = w.work(ctx, tx)
		if err == nil && w.random.IntN(20) == 0 {
			err = errors.Join(tx.Flush(ctx), errChangedMind)
		}
		return err
	})
	switch {
	case errors.Is(err, errChangedMind):
		w.next, w.live, w.deleted = before.next, before.live, before.deleted
		w.rolledBack.Add(1)
		return nil
	case err != nil:
		return err
	}
	w.transactions.Add(1)
	w.written.Add(events)
	return nil
}

// state is what a writer knows of its rows.
type state struct {
	next          int64
	live, deleted []int64
}

// keepLive bounds how many accounts of a writer exist at a time.
const keepLive = 2000

// work is one transaction's worth; it returns how many events it will give.
func (w *writer) work(ctx context.Context, tx *outbox.Tx) (int64, error) {
	switch n := w.random.IntN(100); {
	case len(w.live) < 10, n < 40 && len(w.live) < keepLive:
		return 1, w.create(ctx, tx)
	case n < 75:
		return 1, w.update(ctx, tx, w.anyLive())
	case n < 85:
		return 1, w.remove(ctx, tx)
	case n < 93: // several saves of one row: one event
		id := w.anyLive()
		return 1, errors.Join(w.update(ctx, tx, id), w.update(ctx, tx, id), w.update(ctx, tx, id))
	default: // several entities and rows
		author := fmt.Sprintf("author-%d-%d", w.number, w.random.IntN(200))
		a, b := w.live[0], w.live[1]
		return 3, errors.Join(w.author(ctx, tx, author), w.update(ctx, tx, a), w.update(ctx, tx, b))
	}
}

func (w *writer) anyLive() int64 { return w.live[w.random.IntN(len(w.live))] }

// create makes an account, now and then under the key of a deleted one.
func (w *writer) create(ctx context.Context, tx *outbox.Tx) error {
	w.next++
	id := w.number*1_000_000_000 + w.next
	if n := len(w.deleted); n > 0 && w.random.IntN(3) == 0 {
		id, w.deleted = w.deleted[n-1], w.deleted[:n-1]
	}
	w.live = append(w.live, id)
	_, err := tx.ExecContext(ctx, `INSERT INTO accounts (id, name, balance, active, note) VALUES ($1, $2, $3, $4, $5)`,
		id, fmt.Sprintf("account %d", id), w.random.IntN(10_000), w.random.IntN(2) == 0, "not sent")
	return errors.Join(err, tx.Saved(w.ids.account, id))
}

func (w *writer) update(ctx context.Context, tx *outbox.Tx, id int64) error {
	_, err := tx.ExecContext(ctx, `UPDATE accounts SET balance = balance + $1 WHERE id = $2`, w.random.IntN(100), id)
	return errors.Join(err, tx.Saved(w.ids.account, id))
}

func (w *writer) remove(ctx context.Context, tx *outbox.Tx) error {
	i := w.random.IntN(len(w.live))
	id := w.live[i]
	w.live[i] = w.live[len(w.live)-1]
	w.live = w.live[:len(w.live)-1]
	w.deleted = append(w.deleted, id)
	return tx.Delete(ctx, w.ids.account, id)
}

func (w *writer) author(ctx context.Context, tx *outbox.Tx, id string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO authors (id, name) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET name = excluded.name`,
		id, fmt.Sprintf("Author №%d", w.random.IntN(1000)))
	return errors.Join(err, tx.Saved(w.ids.author, id))
}
