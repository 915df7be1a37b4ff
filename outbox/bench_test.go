package outbox_test

import (
	"context"
	"database/sql"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/outbox"
)

// BenchmarkWriter takes turns between an update with its commit and the same
// with Saved, and reports the median of the times' ratios.
func BenchmarkWriter(b *testing.B) {
	for _, connections := range []int{1, 8} {
		b.Run(map[int]string{1: "one connection", 8: "eight connections"}[connections], func(b *testing.B) {
			m, ob := benchMaster(b, 1000)
			m.SetMaxOpenConns(connections)
			m.SetMaxIdleConns(connections)
			alone := func(ctx context.Context, key int) error {
				tx, err := m.BeginTx(ctx, nil)
				if err != nil {
					return err
				}
				defer func() { _ = tx.Rollback() }()
				if _, err := tx.ExecContext(ctx, raiseBalance, 1, key); err != nil {
					return err
				}
				return tx.Commit()
			}
			recorded := func(ctx context.Context, key int) error {
				return ob.InTx(ctx, m, func(ctx context.Context, tx *outbox.Tx) error {
					if _, err := tx.ExecContext(ctx, raiseBalance, 1, key); err != nil {
						return err
					}
					return tx.Saved("account", key)
				})
			}
			const each = 200
			ratios := make([]float64, 0, b.N)
			run := func(work func(ctx context.Context, key int) error) time.Duration {
				start := time.Now()
				var all sync.WaitGroup
				for c := range connections {
					all.Go(func() {
						for i := range each {
							if err := work(b.Context(), (i*connections+c)%1000+1); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				all.Wait()
				return time.Since(start)
			}
			run(alone)
			run(recorded)
			for b.Loop() {
				reference := run(alone)
				ratios = append(ratios, float64(run(recorded))/float64(reference))
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "x-the-time")
		})
	}
}

// BenchmarkFlush records 10,000 keys in one transaction.
func BenchmarkFlush(b *testing.B) {
	const n = 10_000
	m, ob := benchMaster(b, n)
	keys := make([]any, n)
	for i := range keys {
		keys[i] = i + 1
	}
	var took time.Duration
	for b.Loop() {
		err := ob.InTx(b.Context(), m, func(ctx context.Context, tx *outbox.Tx) error {
			if err := tx.Saved("account", keys...); err != nil {
				return err
			}
			start := time.Now()
			defer func() { took += time.Since(start) }()
			return tx.Flush(ctx)
		})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if _, err := m.ExecContext(b.Context(), `TRUNCATE outbox`); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(n*b.N)/took.Seconds(), "events/s")
}

func benchMaster(b *testing.B, rows int) (*sql.DB, *outbox.Outbox) {
	b.Helper()
	db, _ := testdb.Postgres(b)
	m := newMaster(b, db, outbox.Postgres)
	_, err := db.ExecContext(b.Context(), `INSERT INTO accounts (id, name) SELECT n, 'name ' || n FROM generate_series(1, $1) n`, rows)
	if err != nil {
		b.Fatal(err)
	}
	return db, m.ob
}
