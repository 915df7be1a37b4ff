package integration_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/outbox"
)

// These tell this program that it is to be a master's service, and of which rig.
const writerDSN, writerEntity, writerSeed = "LOCKSTEP_TEST_WRITER_DSN", "LOCKSTEP_TEST_WRITER_ENTITY", "LOCKSTEP_TEST_WRITER_SEED"

// writeUntilKilled changes accounts at random, side by side, as a process of its own.
func writeUntilKilled(dsn string) {
	db, err := sql.Open("postgres", dsn)
	if err != nil {
		panic(err)
	}
	e := account()
	e.id = os.Getenv(writerEntity)
	r := &rig{dialect: outbox.Postgres, master: db, entities: []entity{e}}
	if r.ob, err = outbox.New(outbox.Config{Dialect: r.dialect, Entities: []outbox.Entity{{ID: e.id, Table: e.table}}}); err != nil {
		panic(err)
	}
	var seed uint64
	if _, err := fmt.Sscan(os.Getenv(writerSeed), &seed); err != nil {
		panic(err)
	}
	var all sync.WaitGroup
	for i := range writersCount {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		all.Go(func() {
			for n := 0; ; n++ {
				if _, err := r.writeAtRandom(context.Background(), rng, fmt.Sprintf("process %d, writer %d, %d", os.Getpid(), i, n)); err != nil {
					panic(err)
				}
			}
		})
	}
	all.Wait()
}

// The master's process dies in the middle of its transactions, before, in and after their
// commits: of each change and its event both are there, or neither.
func TestMasterKilledAtRandomMoments(t *testing.T) {
	t.Parallel()
	r := newRig(t, account())
	r.startRelay(t)
	r.startConsumer(t)
	seed := rand.Uint64()
	t.Logf("moments with seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 5 {
		writer := exec.CommandContext(t.Context(), os.Args[0])
		writer.Env = append(os.Environ(), writerDSN+"="+r.masterDSN, writerEntity+"="+r.id("account"), writerSeed+"="+fmt.Sprint(rng.Uint64()))
		var said output
		writer.Stderr = &said
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		goal := r.wire.count() + 100
		written := eventually(t, func() bool { return r.wire.count() >= goal })
		<-time.After(time.Duration(rng.Int64N(int64(50 * time.Millisecond))))
		_ = writer.Process.Kill()
		if err := writer.Wait(); !written || err == nil || err.Error() != "signal: killed" {
			t.Fatalf("the master wrote enough: %v; it ended with %v before it was killed:\n%s", written, err, said.text())
		}
	}
	if n := repeats(r.settled(t)); n > 0 {
		t.Errorf("%d messages were published twice, want none: nothing happened to the relay", n)
	}
}
