package cli_test

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/migrations"
)

// A sync that is killed, again and again, goes on where it was: each row is sent as it
// is then, in key order, and no more than the chunk that was in hand is sent twice.
func TestSyncResumesAfterKill(t *testing.T) {
	t.Parallel()
	for _, d := range []migrations.Dialect{migrations.Postgres, migrations.MySQL, migrations.SQLite} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			const rows, chunk, kills = 4000, 10, 5
			s := newSidesOn(t, d, migrations.SQLite, rows)
			sync := []string{"sync", "--cqrs-id", "account", "--all", "--resume"}
			for kill := range kills {
				before := s.int(s.master, `SELECT count(*) FROM outbox`)
				p := start(t, append(s.env, "LOCKSTEP_DATABASE_URL="+s.masterURL), append(sync, "--rate", "300/s", "--batch", fmt.Sprint(chunk))...)
				eventually(t, func() string {
					if n := s.int(s.master, `SELECT count(*) FROM outbox`); n < before+200 {
						return fmt.Sprintf("%d rows more are sent", n-before)
					}
					return ""
				})
				p.signal(syscall.SIGKILL)
				if _, by := p.exit(patience); by != syscall.SIGKILL {
					t.Fatalf("the sync ended before it was killed: the test proves nothing: %s%s", p.out.String(), p.log.String())
				}
				// Far ahead of what is sent: the SYNC has to tell of it.
				s.exec(s.master, fmt.Sprintf(`UPDATE accounts SET name = 'changed', cqrs_revision = 2 WHERE id = %d`, rows-kill))
			}
			s.onMaster("", sync...).expect(t, 0, "resuming behind key")
			s.sentInOrder(rows, chunk, kills)

			again := s.onMaster("", sync...)
			again.wantOut(t, fmt.Sprintf("%d rows synced\n", rows))
			again.expect(t, 0, "was not broken off")
		})
	}
}

// sentInOrder checks the SYNCs of a run that was broken off so many times.
func (s *sides) sentInOrder(rows, chunk, breaks int) {
	t := s.t
	t.Helper()
	found, err := s.master.QueryContext(t.Context(), `SELECT payload FROM outbox ORDER BY id`)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = found.Close() }()
	last, back, times := 0, 0, map[int]int{}
	for found.Next() {
		var payload []byte
		if err := found.Scan(&payload); err != nil {
			t.Fatal(err)
		}
		e, err := event.Decode(payload)
		if err != nil {
			t.Fatal(err)
		}
		key, err := strconv.Atoi(string(e.Key))
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf(`"name":"n%d"`, key)
		if key > rows-breaks {
			want = `"name":"changed"`
		}
		if v, err := e.Version(); err != nil || e.Signal != event.Sync || !strings.Contains(string(e.Data), want) || (v.Revision == 2) != (key > rows-breaks) {
			t.Errorf("row %d was sent as %s, want a SYNC with %s: %v", key, payload, want, err)
		}
		if times[key]++; key != last+1 {
			if back++; last-key >= chunk || key > last {
				t.Errorf("row %d is sent behind row %d", key, last)
			}
		}
		last = key
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	sent := 0
	for key := 1; key <= rows; key++ {
		if sent += times[key]; times[key] == 0 {
			t.Errorf("row %d was never sent", key)
		}
	}
	if back > breaks || sent > rows+breaks*chunk {
		t.Errorf("%d events for %d rows, and %d times the sync went back: want at most a chunk of %d repeated for each of %d breaks", sent, rows, back, chunk, breaks)
	}
	t.Logf("%d events for %d rows", sent, rows)
}
