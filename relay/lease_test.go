package relay

import (
	"database/sql"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
)

// newTestStore is a store of a migrated database of the test's own.
func newTestStore(t *testing.T, d Dialect) *store {
	t.Helper()
	open := map[Dialect]func(testing.TB) (*sql.DB, string){Postgres: testdb.Postgres, MySQL: testdb.MariaDB, SQLite: testdb.SQLite}
	db, _ := open[d](t)
	if _, err := migrations.Up(t.Context(), db, d); err != nil {
		t.Fatal(err)
	}
	return newStore(db, d)
}

func onEachStore(t *testing.T, test func(t *testing.T, s *store)) {
	t.Helper()
	for _, d := range []Dialect{Postgres, MySQL, SQLite} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			test(t, newTestStore(t, d))
		})
	}
}

// Of many relays that have all seen the lease vacant one gets it, and nobody else before
// it runs out or is released.
func TestOneOfManyGetsTheLease(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, s *store) {
		of := share{0, 1}
		take := func(ttl time.Duration) (holder string, term int64) {
			t.Helper()
			var all sync.WaitGroup
			var mu sync.Mutex
			for _, name := range []string{"a", "b", "c", "d"} {
				all.Go(func() {
					got, err := s.agree(t.Context(), of, name, ttl) // past the look whether it is vacant
					mu.Lock()
					defer mu.Unlock()
					switch {
					case errors.Is(err, sql.ErrNoRows):
					case err != nil:
						t.Errorf("%s: %v", name, err)
					case holder != "":
						t.Errorf("%s got the lease with term %d, and %s has it", name, got, holder)
					default:
						holder, term = name, got
					}
				})
			}
			all.Wait()
			return holder, term
		}
		first, term := take(time.Minute)
		if first == "" || term != 1 {
			t.Fatalf("%q has the lease with term %d, want one with term 1", first, term)
		}
		if second, _ := take(time.Minute); second != "" {
			t.Errorf("%s got the lease that %s has", second, first)
		}
		held := &lease{store: s, share: of, holder: first, term: term}
		if err := held.release(t.Context()); err != nil {
			t.Fatal(err)
		}
		second, term := take(time.Minute)
		if second == "" || term != 2 {
			t.Errorf("%q has the lease that was released, with term %d, want one with term 2", second, term)
		}
		held = &lease{store: s, share: of, holder: second, term: term, ttl: time.Millisecond}
		held.extend(time.Now().Add(time.Minute)) // of the call
		if err := held.renew(t.Context(), time.Second, 0); err != nil {
			t.Fatal(err)
		}
		<-time.After(100 * time.Millisecond)
		if third, term := take(time.Minute); third == "" || term != 3 {
			t.Errorf("%q has the lease that ran out, with term %d, want one with term 3", third, term)
		}
	})
}

// A renewal that was given up, and comes to the database when the lease is released, does
// not keep others from it.
func TestReleasedLeaseIsNotRenewed(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, s *store) {
		held, err := s.acquire(t.Context(), share{0, 1}, "first", time.Minute)
		if err != nil || held == nil {
			t.Fatalf("%v, %v; want the lease", held, err)
		}
		if err := held.renew(t.Context(), time.Second, 1); err != nil {
			t.Errorf("renewed while it is held: %v", err)
		}
		if err := held.release(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := held.renew(t.Context(), time.Second, 1); !errors.Is(err, errLeaseLost) {
			t.Errorf("renewed after its release: %v, want that it is lost", err)
		}
		if next, err := s.acquire(t.Context(), share{0, 1}, "second", time.Minute); err != nil || next == nil {
			t.Errorf("taken by another: %v, %v; want the lease", next, err)
		}
	})
}
