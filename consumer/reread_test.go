package consumer

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// runNarrow runs a consumer of a table whose title takes 3 characters, and whose
// messages come again at once.
func runNarrow(t *testing.T, d Dialect) (*rig, *running) {
	t.Helper()
	r := newRig(t, d, map[string]Table{"account": {Name: "account_ref", RetryDelay: time.Millisecond, MaxRetries: RetryForever}},
		`CREATE TABLE account_ref (id bigint PRIMARY KEY, name varchar(3) NOT NULL, note varchar(40), cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`)
	r.rereadEvery = 20 * time.Millisecond
	broker := newTestBroker()
	broker.requeue = true
	return r, r.start(t, broker, broker)
}

// TestAlteredWhileRunning: a table that is altered in a way that lets messages
// fit is noticed without a restart: their retries pass.
func TestAlteredWhileRunning(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		message *message.Message
		alter   map[Dialect]string
		row     string
	}{
		{
			"a wider column", save(2, 1, "longer"),
			map[Dialect]string{Postgres: `ALTER TABLE account_ref ALTER name TYPE varchar(30)`, MySQL: `ALTER TABLE account_ref MODIFY name varchar(30) NOT NULL`},
			"id=2 name=longer",
		},
		{
			"a field that need not come any more", lockstep(envelope("SAVE", "account", `{"id":2,"note":"x",`+versionJSON(1, at(1))+`}`)),
			map[Dialect]string{Postgres: `ALTER TABLE account_ref ALTER name DROP NOT NULL`, MySQL: `ALTER TABLE account_ref MODIFY name varchar(3)`},
			"id=2 name=null",
		},
		{
			"another type", lockstep(envelope("SAVE", "account", `{"id":2,"name":"x","note":{"a":1},`+versionJSON(1, at(1))+`}`)),
			map[Dialect]string{Postgres: `ALTER TABLE account_ref DROP COLUMN note, ADD CHECK (name <> 'y')`}, // the statement names a column that is gone
			"id=2 name=x",
		},
	}
	for _, test := range tests {
		for d, alter := range test.alter {
			t.Run(test.name+"/"+string(d), func(t *testing.T) {
				t.Parallel()
				r, run := runNarrow(t, d)
				run.broker.deliver(save(1, 1, "abc"))
				run.awaitAcked(t, 1)
				if !strings.Contains(alter, "DROP COLUMN") {
					run.broker.deliver(test.message.Copy())
					eventually(t, "retries", func() bool { return r.Stats().Retried > 2 })
					mustExec(t, r.db, alter)
				} else {
					mustExec(t, r.db, alter)
					run.broker.deliver(test.message.Copy())
				}
				want := []string{"id=1 name=abc", test.row}
				eventually(t, "the row", func() bool {
					return cmp.Equal(want, dump(t, r.db, "SELECT id, name FROM account_ref"))
				})
				if err := run.stop(t); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// TestAlteredOnce: where each message has one attempt, the first that does not
// fit finds out, and passes at once; with Apply, too.
func TestAlteredOnce(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"Run", "Apply"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Postgres, map[string]Table{"account": {Name: "account_ref", MaxRetries: NoRetries}},
				`CREATE TABLE account_ref (id bigint PRIMARY KEY, name varchar(3) NOT NULL, cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`)
			apply := func(m *message.Message) {
				o, err := r.Apply(t.Context(), m)
				if err != nil || o.Result != Applied {
					t.Errorf("have %s (%v, %v), want applied", o.Result, o.Err, err)
				}
			}
			if how == "Run" {
				broker := newTestBroker()
				run := r.start(t, broker, broker)
				apply = func(m *message.Message) {
					acked, _ := broker.counts()
					broker.deliver(m)
					run.awaitAcked(t, acked+1)
				}
			} else {
				t.Cleanup(func() { _ = r.Close() })
			}
			apply(save(1, 1, "abc"))
			mustExec(t, r.db, `ALTER TABLE account_ref ALTER name TYPE varchar(30)`)
			apply(save(2, 1, "longer"))
			if diff := cmp.Diff([]string{"id=1 name=abc", "id=2 name=longer"}, dump(t, r.db, "SELECT id, name FROM account_ref")); diff != "" {
				t.Errorf("rows (-want +have):\n%s", diff)
			}
			if dead := r.Stats().Dead; dead != 0 {
				t.Errorf("%d dead letters, want none", dead)
			}
		})
	}
}

// TestAlteredInTheMiddle: altering a table again and again while messages come in
// batches, parked ones among them, costs none of them its row.
func TestAlteredInTheMiddle(t *testing.T) {
	t.Parallel()
	r := newRig(t, Postgres, map[string]Table{"account": {Name: "account_ref", RetryDelay: 20 * time.Millisecond, MaxRetries: RetryForever}, "child": {Name: "child_ref", MaxRetries: RetryForever}},
		`CREATE TABLE account_ref (id bigint PRIMARY KEY, name varchar(8) NOT NULL, cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`,
		`CREATE TABLE child_ref (id bigint PRIMARY KEY, account bigint REFERENCES account_ref (id), cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`)
	r.rereadEvery = time.Millisecond
	broker := newTestBroker()
	broker.requeue = true
	run := r.start(t, broker, broker)
	const keys = 200
	for i := range keys {
		broker.deliver(lockstep(envelope("SAVE", "child", fmt.Sprintf(`{"id":%d,"account":%d,%s}`, i, i, versionJSON(1, at(1))))))
	}
	for width := range 20 {
		for i := width; i < keys; i += 20 {
			broker.deliver(save(i, 1, "a name of eight and more")) // fits from the last width on
		}
		mustExec(t, r.db, fmt.Sprintf(`ALTER TABLE account_ref ALTER name TYPE varchar(%d)`, 9+width))
	}
	mustExec(t, r.db, `ALTER TABLE account_ref ALTER name TYPE varchar(60)`)
	eventually(t, "all rows", func() bool {
		return cmp.Equal([]string{fmt.Sprintf("n=%d", keys)}, dump(t, r.db, "SELECT count(*) AS n FROM child_ref JOIN account_ref ON account_ref.id = account"))
	})
	if err := run.stop(t); err != nil {
		t.Error(err)
	}
}
