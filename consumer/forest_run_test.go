package consumer

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/broker/memory"
	"github.com/lockstep-go/lockstep/event"
)

// TestForestUnderRestarts: two consumers share a queue and are stopped again and again
// without the time to finish a transaction, while messages come out of order and more
// than once. The replica ends as the master's tables are, and stays so.
func TestForestUnderRestarts(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		seed := number(t, forestSeed, 1)
		// Messages about unique names could hinder each other for good.
		r := soil{key: "bigint", order: []string{treeID, leafID}, anyNames: true}.rig(t, d)
		f := newForest(seed, 500)
		messages := (&history{Rand: f.Rand, messages: f.messages}).deliver(8)
		b, err := memory.Open(t.Context(), memory.Config{Prefetch: 60})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = b.Close() }()
		if err := b.Bind(t.Context(), "replica", slices.Concat(event.QueueTopics("replica", treeID), event.QueueTopics("replica", leafID))...); err != nil {
			t.Fatal(err)
		}

		var consumers sync.WaitGroup
		for i := range uint64(2) {
			random := rand.New(rand.NewPCG(seed, i))
			consumers.Go(func() { restartOften(t, r.db, b, random, 12) })
		}
		for part := range slices.Chunk(r.read(t, messages), len(messages)/15) {
			for _, in := range part {
				if err := b.Publish(event.Topic(in.ev.CQRSID), in.msg); err != nil {
					t.Fatal(err)
				}
			}
			<-time.After(40 * time.Millisecond)
		}
		consumers.Wait()

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := forestConsumer(t, r.db, b, Config{})
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		eventually(t, "the queue is empty", func() bool {
			waiting, _, err := b.Inspect(t.Context(), "replica")
			return err == nil && waiting == 0 && cmp.Equal(f.want(), r.forest(t))
		})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(f.want(), r.forest(t)); diff != "" {
			t.Errorf("seed %d: the replica is not the master (-master +replica):\n%s", seed, diff)
		}
	})
}

// restartOften runs consumers one after the other, each for a short time.
func restartOften(t *testing.T, db *sql.DB, b Broker, random *rand.Rand, times int) {
	for range times {
		c := forestConsumer(t, db, b, Config{BatchSize: 1 + random.IntN(40), DrainTimeout: time.Duration(1+random.IntN(20)) * time.Millisecond})
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(20+random.IntN(130))*time.Millisecond)
		if err := c.Run(ctx); err != nil && !errors.Is(err, ErrDrain) {
			t.Errorf("Run: %v", err)
		}
		cancel()
	}
}

func forestConsumer(t *testing.T, db *sql.DB, b Broker, cfg Config) *Consumer {
	t.Helper()
	cfg.Queue = "replica"
	c, err := New(db, b, cfg)
	if err != nil {
		t.Error(err)
		return nil
	}
	for _, id := range []string{treeID, leafID} {
		if err := c.Table(id, Table{Name: id, MaxRetries: RetryForever, RetryDelay: 20 * time.Millisecond}); err != nil {
			t.Error(err)
		}
	}
	return c
}
