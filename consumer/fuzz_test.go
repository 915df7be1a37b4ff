package consumer

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
)

// hostile returns bodies with data that a master would hardly send.
func hostile() []string {
	var bodies []string
	for _, data := range []string{
		`null`, `[]`, `{}`, `{"id":{},"name":[],"note":{"a":null},"cqrs_revision":1,"cqrs_updated":"2026-01-01"}`,
		`{"id":1,"id":2,"name":"a","name":NaN,"cqrs_revision":"-1","cqrs_updated":"0000-01-01"}`,
		`{"id":1e400,"name":"\ud800","cqrs_revision":9223372036854775807,"cqrs_updated":"9999-12-31T23:59:59.9999999Z"}`,
		`{"id":4,"name":"\ud800","cqrs_revision":9223372036854775807,"cqrs_updated":"9999-12-31T23:59:59.9999999Z"}`,
		`{"id":4,"name":"x","cqrs_revision":9223372036854775807,"cqrs_updated":"9999-12-31T23:59:59.9999999-23:59"}`,
		`{"id":4,"name":"x","cqrs_revision":3,"cqrs_updated":"0000-01-01"}`,
		`{"id":4,"name":"x","cqrs_revision":3,"cqrs_updated":"0001-01-01T00:00:00+23:59"}`,
		`{"\u0069d":-0,"name":true,"cqrs_revision":-9223372036854775808,"cqrs_updated":"2026-01-01 00:00:00"}`,
		`{"id":"99999999999999999999","name":"x","cqrs_revision":1.7,"cqrs_updated":"2026-01-01T00:00:00+0100"}`,
		`{"id":5,"name":{"":0},"note":"x","cqrs_revision":1,"cqrs_updated":"2026-01-01T00:00:00+0100"}`,
		`{"id":5,"name":"\u0000","note":"\u0000","cqrs_revision":1,"cqrs_updated":"2026-01-01T00:00:00+0100"}`,
		`{"id":5,"name":` + strings.Repeat("[", 9990) + strings.Repeat("]", 9990) + `,"cqrs_revision":1,"cqrs_updated":"2026-01-01"}`,
	} {
		for _, signal := range []string{"SAVE", "SYNC", "DELETE"} {
			bodies = append(bodies, envelope(signal, "account", data))
		}
	}
	return bodies
}

// TestHostileBodiesOnPostgres: none of them looks like an outage of the database,
// which would stop the consumer.
func TestHostileBodiesOnPostgres(t *testing.T) {
	t.Parallel()
	for _, columns := range []string{
		"id bigint PRIMARY KEY, name text, note text", "id text PRIMARY KEY, name jsonb, note json",
		"id numeric PRIMARY KEY, name text[], note integer", "id integer PRIMARY KEY, name tsvector, note date",
	} {
		r := newRig(t, Postgres, map[string]Table{"account": {Name: "account_ref"}},
			"CREATE TABLE account_ref ("+columns+", cqrs_revision integer NOT NULL, cqrs_updated timestamptz NOT NULL)")
		var all []*incoming
		for _, body := range hostile() {
			for _, m := range []*message.Message{django(body), lockstep(body)} {
				in, err := read(r.replicas, m, at(0))
				if err != nil {
					continue
				}
				all = append(all, in)
				if _, err := r.engine.apply(t.Context(), []*incoming{in}, nil); err != nil {
					t.Errorf("%s: %.200s: %v", columns, body, err)
				}
			}
		}
		if _, err := r.engine.apply(t.Context(), all, nil); err != nil || len(all) < 20 {
			t.Errorf("%s: all %d together: %v", columns, len(all), err)
		}
	}
}

// FuzzBody: no body stops the consumer. It is rejected, or known not to fit, or
// applied or refused by the database, alone and beside others.
func FuzzBody(f *testing.F) {
	for model := range goldenTables {
		for _, m := range goldenMessages(f, model) {
			f.Add([]byte(m.Payload), false)
		}
	}
	for _, m := range []*message.Message{save(1, 1, "one"), save("1", 2, "\u0000"), remove(1, 3), remove("x", 3)} {
		f.Add([]byte(m.Payload), true)
	}
	for _, body := range hostile() {
		f.Add([]byte(body), true)
		f.Add([]byte(body), false)
	}
	r := accountRig(f, SQLite)
	f.Fuzz(func(t *testing.T, body []byte, fromLockstep bool) {
		m := message.NewMessage("", body)
		if fromLockstep {
			m.Metadata.Set(event.HeaderEventID, "x")
		}
		in, err := read(r.replicas, m, at(0))
		rejected, data := (*rejection)(nil), (*DataError)(nil)
		switch {
		case errors.As(err, &rejected):
			return
		case errors.As(err, &data):
			if !json.Valid(in.ev.AppendJSON(nil)) {
				t.Errorf("its copy for a retry is not JSON: %s", in.ev.AppendJSON(nil))
			}
			return
		case err != nil:
			t.Fatalf("an error of no known kind: %v", err)
		}
		other := r.read(t, []*message.Message{save(-7, 1, "other"), save(-7, 2, "other")})
		batch := []*incoming{other[0], in, other[1], in}
		for _, c := range newProgram(batch).calls {
			if objects := appendObjects(nil, c.steps); !json.Valid(objects) {
				t.Errorf("not JSON: %s", objects)
			}
			if c.text() == "" {
				t.Error("no statement")
			}
		}
		for slot := slotKey; slot < len(in.values); slot++ {
			if in.values[slot] != nil {
				suspicious(in.to.column(slot), in.values[slot])
			}
		}
		if _, err := r.engine.apply(t.Context(), batch, nil); err != nil {
			t.Errorf("the batch failed as a whole: %v", err)
		}
	})
}
