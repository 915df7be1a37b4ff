package consumer

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
)

// Observe hears of every message that a commit settled and of no other.
func TestObserve(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := newRig(t, d, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}}, accountTable)
		var lags []time.Duration
		r.cfg.Now = func() time.Time { return at(1000) }
		r.cfg.Observe = func(id string, lag time.Duration) {
			if id != "account" {
				t.Errorf("told of entity %q", id)
			}
			lags = append(lags, lag)
		}
		broker := newTestBroker()
		run := r.start(t, broker, broker)
		bad := lockstep(strings.Replace(envelope("SAVE", "account", `{"id":5,"name":null,`+versionJSON(1, at(1))+`}`), `"retries":0`, `"retries":30`, 1))
		broker.deliver(save(1, 1, "one"), bad, save(1, 1, "one"))
		run.awaitAcked(t, 3)
		if err := run.stop(t); err != nil {
			t.Fatal(err)
		}
		e := event.Event{Data: eventData(t, save(1, 1, "one").Payload)}
		v, err := e.Version()
		if err != nil {
			t.Fatal(err)
		}
		want := at(1000).Sub(v.Updated)
		if diff := cmp.Diff([]time.Duration{want, want}, lags); diff != "" {
			t.Errorf("lags (-want +have):\n%s", diff)
		}
	})
}

func eventData(t *testing.T, body []byte) []byte {
	t.Helper()
	e, err := event.Decode(body)
	if err != nil {
		t.Fatal(err)
	}
	return e.Data
}

// No name of a table or a column can meet one that the statements use inside.
func TestTablesOfAnyName(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		names := []string{
			"m", "next", "rest", "put", "revived", "hit", "gone", "dead", "d", "t", "h", "excluded", "n", "k",
			"lockstep", `quo"ted`, "select", "UPPER", "tablé",
		}
		var tables []string
		registered := map[string]Table{}
		for i, name := range names {
			q := d.QuoteColumn(name)
			tables = append(tables, "CREATE TABLE "+q+" ("+q+" bigint PRIMARY KEY, r text, held text, cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)")
			registered["e"+string(rune('a'+i))] = Table{
				Name: name, Key: name, Columns: map[string]string{"id": name, "name": "r", "note": "held"},
			}
		}
		r := newRig(t, d, registered, tables...)
		broker := newTestBroker()
		run := r.start(t, broker, broker)
		for id := range registered {
			for _, m := range []string{
				envelope("SAVE", id, `{"id":1,"name":"one","note":"x",`+versionJSON(1, at(1))+`}`),
				envelope("SAVE", id, `{"id":1,"name":"uno","note":"y",`+versionJSON(2, at(2))+`}`),
				envelope("SAVE", id, `{"id":2,"name":"two","note":"z",`+versionJSON(1, at(1))+`}`),
				envelope("DELETE", id, `{"id":2,`+versionJSON(2, at(2))+`}`),
			} {
				broker.deliver(lockstep(m))
			}
		}
		run.awaitAcked(t, 4*len(names))
		for _, name := range names {
			have := dump(t, r.db, "SELECT r, held, cqrs_revision FROM "+d.QuoteColumn(name))
			if diff := cmp.Diff([]string{"r=uno held=y cqrs_revision=2"}, have); diff != "" {
				t.Errorf("table %s (-want +have):\n%s", name, diff)
			}
		}
	})
}
