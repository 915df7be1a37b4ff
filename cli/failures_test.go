package cli_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/migrations"
)

// fails puts messages into an empty outbox that fail: each with the topic, key, error
// and age in hours given, and ids from 1.
func (s *sides) fails(messages ...[4]string) {
	s.t.Helper()
	mysql, sqlite := strings.HasPrefix(s.masterURL, "mysql:"), strings.HasPrefix(s.masterURL, "sqlite:")
	created := "now() - interval '%s hours'"
	later := "'2099-01-02 03:04:05+00'"
	body := "'body of %d'"
	switch {
	case mysql:
		created, later = "utc_timestamp(6) - INTERVAL %s HOUR", "'2099-01-02 03:04:05'"
	case sqlite:
		created, later = "strftime('%%Y-%%m-%%d %%H:%%M:%%f000+00:00', 'now', '-%s hours')", "'2099-01-02 03:04:05.000000+00:00'"
		body = "CAST('body of %d' AS BLOB)"
	}
	for i, m := range messages {
		s.exec(s.master, fmt.Sprintf("INSERT INTO outbox (topic, "+s.quoted("key")+", payload, metadata, created_at) VALUES ('%s', '%s', "+body+`, '{"n": "%d"}', `+created+")",
			m[0], m[1], i+1, i+1, m[3]))
		s.exec(s.master, fmt.Sprintf("INSERT INTO outbox_failures (outbox_id, attempts, last_error, retry_at) VALUES (%d, %d, '%s', %s)", i+1, i+1, m[2], later))
	}
}

// failing returns the ids that list prints.
func (s *sides) failing(args ...string) (ids []int) {
	s.t.Helper()
	o := s.onMaster("", append([]string{"failures", "list", "--json"}, args...)...)
	o.expect(s.t, 0)
	for line := range strings.Lines(o.out) {
		var one struct{ ID int }
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			s.t.Fatalf("%s: %v", line, err)
		}
		ids = append(ids, one.ID)
	}
	return ids
}

// What fails is selected, shown, tried now, given up and purged on each database, and
// nothing else is touched.
func TestFailuresCommand(t *testing.T) {
	t.Parallel()
	for _, d := range []migrations.Dialect{migrations.Postgres, migrations.MySQL, migrations.SQLite} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			s := newSidesOn(t, d, migrations.SQLite, 0)
			s.fails(
				[4]string{"account", "a", "channel closed", "48"},
				[4]string{"cqrs.biling.account", "b", "no queue", "2"},
				[4]string{"author", "a", "channel closed", "0"},
				[4]string{"cqrs.billing.account", "c", "no queue", "0"},
			)
			s.exec(s.master, "INSERT INTO outbox (topic, "+s.quoted("key")+", payload) VALUES ('account', 'a', 'fine')")
			s.selectsFailing()
			s.changesFailing()
		})
	}
}

func (s *sides) selectsFailing() {
	t := s.t
	t.Helper()
	for _, tt := range []struct {
		args string
		want []int
	}{
		{"", []int{1, 2, 3, 4}},
		{"--cqrs-id account", []int{1, 2, 4}},
		{"--key a", []int{1, 3}},
		{"--reason queue", []int{2, 4}},
		{"--older-than 1h", []int{1, 2}},
		{"--queue billing", []int{4}},
		{"--id 3,1", []int{1, 3}},
		{"--id 3 --id 2 --cqrs-id account", []int{2}},
		{"--older-than 1h --key b --cqrs-id account --reason queue --queue biling", []int{2}},
		{"--key z", nil},
	} {
		if diff := cmp.Diff(tt.want, s.failing(args(tt.args)...)); diff != "" {
			t.Errorf("list %s (-want +have):\n%s", tt.args, diff)
		}
	}
	if o := s.onMaster("", "failures", "list", "--key", "b"); !strings.HasPrefix(o.out, "2  ") ||
		!strings.HasSuffix(o.out, "account/b  2 attempts, again at 2099-01-02 03:04:05  no queue\n") {
		t.Errorf("list: %v", o)
	}
	o := s.onMaster("", "failures", "show", "2")
	o.expect(t, 0)
	var have map[string]any
	if err := json.Unmarshal([]byte(o.out), &have); err != nil {
		t.Fatal(err)
	}
	delete(have, "created")
	want := map[string]any{
		"id": 2.0, "topic": "cqrs.biling.account", "cqrs_id": "account", "key": "b", "attempts": 2.0, "error": "no queue",
		"retry_at": "2099-01-02T03:04:05Z", "metadata": map[string]any{"n": "2"}, "payload": "body of 2",
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("show (-want +have):\n%s", diff)
	}
	s.onMaster("", "failures", "show", "5").expect(t, 1, "no message 5 is failing", "dead-letters list --outbox")
	s.onMaster("", "failures", "show", "x").expect(t, 2, `"x" is not an id`, "failures list")
	s.onMaster("", "failures", "show").expect(t, 2, "which one?")
	s.onMaster("", "failures", "purge", "--id", "1,x").expect(t, 2, `"x" is not an id`)
	s.onMaster("", "failures", "retry", "--older-than", "-1h").expect(t, 2, "--older-than")
	s.onMaster("", "failures").expect(t, 2, "use list, show, retry, give-up or purge")
}

func (s *sides) changesFailing() {
	t := s.t
	t.Helper()
	s.onMaster("", "failures", "retry", "--key", "a").wantOut(t, "2 failing messages due now\n")
	if n := s.int(s.master, `SELECT count(*) FROM outbox_failures WHERE attempts = 0 AND outbox_id IN (1, 3) AND retry_at < '2098-01-01'`); n != 2 {
		t.Errorf("%d messages are due with no attempt spent, want 2", n)
	}
	if n := s.int(s.master, `SELECT count(*) FROM outbox_failures WHERE attempts > 0 AND retry_at > '2098-01-01'`); n != 2 {
		t.Errorf("%d messages wait as before, want 2", n)
	}
	s.onMaster("", "failures", "give-up", "--key", "c").wantOut(t, "1 failing message moved to the dead letters\n")
	if o := s.onMaster("", "dead-letters", "list", "--outbox"); !strings.HasPrefix(o.out, "4  ") || !strings.HasSuffix(o.out, "account/c  4 attempts  no queue\n") {
		t.Errorf("dead letters: %v", o)
	}
	s.onMaster("", "dead-letters", "retry", "--outbox", "--id", "4").wantOut(t, "1 dead letter put back\n")

	s.onMaster("", "failures", "purge", "--queue", "biling").expect(t, 2, "--yes is missing")
	if diff := cmp.Diff([]int{1, 2, 3}, s.failing()); diff != "" {
		t.Errorf("without --yes (-want +have):\n%s", diff)
	}
	s.onMaster("", "failures", "purge", "--queue", "biling", "--yes", "--json").wantOut(t, `{"messages":1}`+"\n")
	s.onMaster("", "failures", "purge", "--queue", "biling", "--yes").wantOut(t, "0 failing messages purged\n")
	s.onMaster("", "failures", "give-up", "--json").wantOut(t, `{"messages":2}`+"\n")
	for query, want := range map[string]int{
		`SELECT count(*) FROM outbox_failures`:           0,
		`SELECT count(*) FROM outbox_dead`:               2,
		`SELECT count(*) FROM outbox`:                    2, // what never failed, and what was put back
		`SELECT count(*) FROM outbox WHERE id = 5`:       1,
		`SELECT count(*) FROM outbox_dead WHERE id <> 1`: 1,
	} {
		if n := s.int(s.master, query); n != want {
			t.Errorf("%s: %d, want %d", query, n, want)
		}
	}
}

// A database without an outbox is told as such.
func TestFailuresWithoutAnOutbox(t *testing.T) {
	t.Parallel()
	for _, d := range []migrations.Dialect{migrations.Postgres, migrations.MySQL, migrations.SQLite} {
		db, url := emptyDatabase(t, d)
		if err := db.PingContext(t.Context()); err != nil { // which makes the file
			t.Fatal(err)
		}
		for _, command := range []string{"failures list", "failures purge --yes", "failures show 1", "dead-letters list --outbox"} {
			relay(t, append(args(command), "--database-url", url)...).expect(t, 1, "relay: database ", "is this the master's database, and was `relay migrate up` run?")
		}
	}
}

// Messages to a queue that is not there fail, are seen by status, and are purged by the
// queue's name, while the relay goes on with what is sent elsewhere.
func TestFailuresOfAMistypedQueue(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	p.save(1, 3)
	p.exec(p.master, `DELETE FROM outbox`)
	env := []string{"LOCKSTEP_DATABASE_URL=" + p.masterURL, "LOCKSTEP_CONFIG=" + p.config}
	typo := p.queue + "x"
	run(t, env, "", "sync", "--cqrs-id", p.entity, "--all", "--queue", typo).wantOut(t, "3 rows synced\n")
	run(t, env, "", "sync", "--cqrs-id", p.entity, "--all").wantOut(t, "3 rows synced\n")
	relaying := p.run()
	eventually(t, func() string {
		if n, failing := p.ready(), p.count(p.master, "outbox_failures"); n != 3 || failing != 3 {
			return fmt.Sprintf("%d messages in the queue and %d failing, want 3 and 3", n, failing)
		}
		return ""
	})
	o := run(t, env, "", "status")
	if want := "outbox   3 pending, the oldest for "; !strings.HasPrefix(o.out, want) || !strings.Contains(o.out, ", 3 of them failing, the oldest for ") {
		t.Errorf("status: %v", o)
	}
	o = run(t, env, "", "failures", "list", "--queue", typo)
	if strings.Count(o.out, "\n") != 3 || strings.Count(o.out, "no queue is bound") != 3 {
		t.Errorf("list: %v", o)
	}
	run(t, env, "", "failures", "purge", "--queue", p.queue, "--yes").wantOut(t, "0 failing messages purged\n")
	run(t, env, "", "failures", "purge", "--queue", typo, "--yes").wantOut(t, "3 failing messages purged\n")
	if o := run(t, env, "", "status"); !strings.HasPrefix(o.out, "outbox   0 pending, none failing; 0 dead\n") {
		t.Errorf("status: %v", o)
	}
	p.save(4, 4) // and the relay goes on
	eventually(t, func() string {
		if n := p.ready(); n != 4 {
			return fmt.Sprintf("%d messages in the queue, want 4", n)
		}
		return ""
	})
	relaying.exitsCleanly()
}
