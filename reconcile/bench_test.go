package reconcile_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/reconcile"
)

// BenchmarkRound dumps, loads, diffs and compares so many rows on PostgreSQL and
// prints each step's rate and the heap's peak. Run it with -benchtime 1x;
// LOCKSTEP_BENCH_ROWS=1000000 is what the figures in docs are taken with.
func BenchmarkRound(b *testing.B) {
	rows := 100_000
	if text := os.Getenv("LOCKSTEP_BENCH_ROWS"); text != "" {
		var err error
		if rows, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	db, other := open(b, migrations.Postgres), open(b, migrations.Postgres)
	const columns = `(id bigint PRIMARY KEY, name text NOT NULL, email text, balance numeric(12,2), active boolean, created timestamptz)`
	table(b, db, migrations.Postgres, "accounts", `CREATE TABLE accounts `+columns)
	table(b, other, migrations.Postgres, "account_ref", `CREATE TABLE account_ref `+columns)
	_, err := db.ExecContext(b.Context(), `INSERT INTO accounts SELECT i, 'name of ' || i, i || '@example.org', i / 100.0, true, now(), 1, now() FROM generate_series(1, $1) i`, rows)
	if err != nil {
		b.Fatal(err)
	}
	m := reconcile.Master{DB: db, Outbox: newOutbox(b, outbox.Config{Dialect: outbox.Postgres, Entities: []outbox.Entity{{ID: "account", Table: "accounts"}}})}
	to := reconcile.Replica{DB: other, Consumer: newConsumer(b, other, "account", consumer.Table{Name: "account_ref"}), Queue: "billing"}
	path := filepath.Join(b.TempDir(), "account.dump")

	step := func(name string, fn func() error) {
		peak := watchHeap()
		started := time.Now()
		err := fn()
		took := time.Since(started)
		if err != nil {
			b.Fatalf("%s: %v", name, err)
		}
		b.Logf("%-16s %8d rows in %6.2f s  %8.0f rows/s  heap in use at most %d MiB", name, rows, took.Seconds(), float64(rows)/took.Seconds(), peak()>>20)
	}
	for b.Loop() {
		step("dump", func() error {
			f, err := os.Create(path)
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			_, err = reconcile.Dump(b.Context(), f, m, "account", outbox.All, nil)
			return err
		})
		step("load", func() error { return benchLoad(b, path, to, rows) })
		var one, two bytes.Buffer
		step("diff master", func() error {
			_, err := reconcile.DiffMaster(b.Context(), &one, m, "account", outbox.All, 0, nil)
			return err
		})
		step("diff replica", func() error {
			_, err := reconcile.DiffReplica(b.Context(), &one, &two, to, nil, nil)
			return err
		})
		for _, fields := range []bool{false, true} {
			step(fmt.Sprintf("compare %v", fields), func() error {
				s, err := reconcile.Compare(b.Context(), m, to, "account", reconcile.CompareOptions{Filter: outbox.All, Fields: fields})
				if err == nil && (s.Differences() != 0 || s.Rows != int64(rows)) {
					err = fmt.Errorf("%+v", s)
				}
				return err
			})
		}
	}
}

func benchLoad(b *testing.B, path string, to reconcile.Replica, rows int) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	have, err := reconcile.Load(b.Context(), io.Reader(f), to, reconcile.LoadOptions{Clear: true})
	if err == nil && have.Applied != int64(rows) {
		err = fmt.Errorf("%+v", have)
	}
	return err
}

// watchHeap samples the heap until the returned function is called.
func watchHeap() (peak func() uint64) {
	var most atomic.Uint64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most.Store(max(most.Load(), m.HeapInuse))
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	}()
	return func() uint64 {
		close(done)
		<-ended
		return most.Load()
	}
}
