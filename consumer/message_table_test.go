package consumer

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// thingTable has a column of each kind that django-cqrs sends, one of them not null.
const thingTable = `CREATE TABLE thing_ref (id bigint PRIMARY KEY, name varchar(9) NOT NULL, n integer, f double precision, d date, ts timestamptz, u uuid, ok boolean,
	p numeric(6,2), note text DEFAULT 'own', cqrs_revision bigint NOT NULL, cqrs_updated timestamptz NOT NULL)`

// TestMessageTable: what becomes of every kind of message that a django-cqrs
// replica was seen with, one by one. $K stands for the case's key. Cases with a revision in
// stored meet a row of it.
// What PostgreSQL's own input conversion refuses is tried again, as is what lacks
// a member; what cannot be understood is a dead letter at once.
func TestMessageTable(t *testing.T) {
	t.Parallel()
	const (
		now    = `"cqrs_updated":"2026-01-01 10:00:00.5+00:00"`
		v      = `"cqrs_revision":3,` + now
		none   = -100 // nothing is stored
		header = `"signal_type":"SAVE","cqrs_id":"thing","instance_pk":$K`
	)
	data := func(members string) string {
		return `{` + header + `,"instance_data":{` + members + `},"expires":null}`
	}
	save := func(members string) string { return data(`"id":$K,"name":"x",` + members) }
	envelope := func(members string) string {
		return `{` + members + `,"instance_data":{"id":$K,"name":"x",` + v + `}}`
	}
	signal := func(name, members string) string {
		return strings.Replace(data(members), `"SAVE"`, name, 1)
	}
	type outcome struct {
		result Result
		reason string
		row    string // of the key afterwards, "" none
	}
	applied := func(row string) outcome { return outcome{Applied, "", row} }
	dead := func(reason string) outcome { return outcome{Dead, reason, ""} }
	retried := outcome{Retried, "", ""}
	kept := outcome{Retried, "", "2 old own"}
	tests := []struct {
		name   string
		stored int
		body   string
		want   outcome
	}{
		{"empty", none, ``, dead("malformed")},
		{"not UTF-8", none, "{\"a\":\"\xff\"}", dead("malformed")},
		{"trailing garbage", none, save(v) + `x`, dead("malformed")},
		{"a list", none, `[]`, dead("malformed")},
		{"a number", none, `5`, dead("malformed")},
		{"null", none, `null`, dead("malformed")},
		{"no members", none, `{}`, dead("incomplete")},
		{"no instance_pk", none, envelope(`"signal_type":"SAVE","cqrs_id":"thing","expires":null`), dead("incomplete")},
		{"no instance_data", none, `{` + header + `}`, dead("incomplete")},
		{"no signal", none, envelope(`"cqrs_id":"thing","instance_pk":1`), dead("incomplete")},
		{"no cqrs_id", none, envelope(`"signal_type":"SAVE","instance_pk":1`), dead("incomplete")},
		{"unknown cqrs_id", none, envelope(`"signal_type":"SAVE","cqrs_id":"nosuch","instance_pk":1`), dead("unknown")},
		{"null cqrs_id", none, envelope(`"signal_type":"SAVE","cqrs_id":null,"instance_pk":1`), dead("incomplete")},
		{"a list as cqrs_id", none, envelope(`"signal_type":"SAVE","cqrs_id":["thing"],"instance_pk":1`), dead("incomplete")},
		{"lower-case signal", none, envelope(`"signal_type":"save","cqrs_id":"thing","instance_pk":1`), dead("signal")},
		{"null signal", none, envelope(`"signal_type":null,"cqrs_id":"thing","instance_pk":1`), dead("signal")},
		{"a list as signal", none, envelope(`"signal_type":["SAVE"],"cqrs_id":"thing","instance_pk":1`), dead("signal")},

		{"expires absent", none, envelope(header), applied("3 x own")},
		{"expires with Z", none, envelope(header + `,"expires":"2099-01-01T00:00:00Z"`), applied("3 x own")},
		{"expires with a space and a fraction", none, envelope(header + `,"expires":"2099-01-01 00:00:00.5+03:00"`), applied("3 x own")},
		{"expires is no time", none, envelope(header + `,"expires":"soon"`), applied("3 x own")},
		{"expires is empty", none, envelope(header + `,"expires":""`), applied("3 x own")},
		{"expires is a number", none, envelope(header + `,"expires":5`), applied("3 x own")},
		{"expires without an offset", none, envelope(header + `,"expires":"2000-01-01T00:00:00"`), applied("3 x own")},
		{"expired", none, envelope(header + `,"expires":"2000-01-01T00:00:00+00:00"`), dead("expired")},
		{"retries of odd types", none, envelope(header + `,"retries":"many","previous_data":5,"meta":[],"correlation_id":{}`), applied("3 x own")},
		{"retries negative, and failing", none, strings.Replace(data(`"id":$K,`+v), `"expires"`, `"retries":-5,"expires"`, 1), retried},
		{"retries a string, and failing", none, strings.Replace(data(`"id":$K,`+v), `"expires"`, `"retries":"7","expires"`, 1), retried},
		{"retries null, and failing", none, strings.Replace(data(`"id":$K,`+v), `"expires"`, `"retries":null,"expires"`, 1), retried},
		{"retries used up, and failing", none, strings.Replace(data(`"id":$K,`+v), `"expires"`, `"retries":30,"expires"`, 1), dead("retries")},
		{"retries no integer holds, and failing: counted anew", none, strings.Replace(data(`"id":$K,`+v), `"expires"`, `"retries":99999999999999999999,"expires"`, 1), retried},
		{"another instance_pk", none, strings.Replace(save(v), `"instance_pk":$K`, `"instance_pk":null`, 1), applied("3 x own")},

		{"data null", none, `{` + header + `,"instance_data":null}`, retried},
		{"data a string", none, `{` + header + `,"instance_data":"x"}`, retried},
		{"data a list", none, `{` + header + `,"instance_data":[]}`, retried},
		{"data empty", none, data(``), retried},
		{"no revision", none, save(now), retried},
		{"no time", none, save(`"cqrs_revision":3`), retried},
		{"no key", none, data(`"name":"x",` + v), retried},
		{"key null", none, data(`"id":null,"name":"x",` + v), retried},
		{"key as text", none, data(`"id":"$K","name":"x",` + v), applied("3 x own")},
		{"key as a float, which bigint does not read", none, data(`"id":$K.0,"name":"x",` + v), retried},
		{"key is no number", none, data(`"id":"abc","name":"x",` + v), retried},

		{"required field missing", none, data(`"id":$K,"n":1,` + v), retried},
		{"required field missing, row there", 2, data(`"id":$K,"n":1,` + v), kept},
		{"required field null", 2, data(`"id":$K,"name":null,` + v), kept},
		{"required field missing in a SYNC", 2, signal(`"SYNC"`, `"id":$K,`+v), kept},
		{"nullable field missing, row there", 2, save(v), applied("3 x own")},
		{"nullable field null", 2, save(`"note":null,` + v), applied("3 x null")},
		{"extra fields", none, save(`"more":{"a":[1,"\ud800"]},` + v), applied("3 x own")},
		{"text too long", 2, data(`"id":$K,"name":"longer than nine",` + v), kept},
		{"NUL in text", 2, data(`"id":$K,"name":"a\u0000b",` + v), kept},
		{"integer too large", 2, save(`"n":2147483648,` + v), kept},
		{"integer as text", none, save(`"n":"7",` + v), applied("3 x own")},
		{"integer is no number", 2, save(`"n":"x",` + v), kept},
		{"integer an object", 2, save(`"n":{},` + v), kept},
		{"float as text", none, save(`"f":"1.5",` + v), applied("3 x own")},
		{"NaN", none, save(`"f":NaN,` + v), applied("3 x own")},
		{"1 for true", none, save(`"ok":1,` + v), applied("3 x own")},
		{"numeric too large", 2, save(`"p":12345.5,` + v), kept},
		{"UUID without hyphens", none, save(`"u":"12345678123412341234123456789abc",` + v), applied("3 x own")},
		{"UUID of garbage", 2, save(`"u":"xyz",` + v), kept},
		{"date only", none, save(`"ts":"2026-01-02","d":"2026-01-02",` + v), applied("3 x own")},
		{"time of garbage", 2, save(`"ts":"yesterdayish",` + v), kept},
		{"time is a number", 2, save(`"ts":5,` + v), kept},

		{"revision as text", none, save(`"cqrs_revision":"3",` + now), applied("3 x own")},
		{"revision a float", none, save(`"cqrs_revision":1.7,` + now), applied("1 x own")},
		{"revision negative", none, save(`"cqrs_revision":-3,` + now), applied("-3 x own")},
		{"revision null", none, save(`"cqrs_revision":null,` + now), retried},
		{"revision a list", 2, save(`"cqrs_revision":[3],` + now), kept},
		{"time null", none, save(`"cqrs_revision":3,"cqrs_updated":null`), retried},
		{"SAVE equal", 3, save(v), outcome{Duplicate, "", "3 old own"}},
		{"SAVE older", 4, save(v), outcome{Stale, "", "4 old own"}},
		{"SAVE after a gap", 1, save(v), applied("3 x own")},
		{"SYNC equal", 3, signal(`"SYNC"`, `"id":$K,"name":"x",`+v), applied("3 x own")},
		{"SYNC lower, from django-cqrs", 9, signal(`"SYNC"`, `"id":$K,"name":"x",`+v), applied("3 x own")},

		{"DELETE", 2, signal(`"DELETE"`, `"id":$K,`+v), applied("")},
		{"DELETE without a row", none, signal(`"DELETE"`, `"id":$K,`+v), applied("")},
		{"DELETE without id", 2, signal(`"DELETE"`, v), kept},
		{"DELETE with id null", 2, signal(`"DELETE"`, `"id":null,`+v), kept},
		{"DELETE with id of garbage", none, signal(`"DELETE"`, `"id":"abc",`+v), retried},
		{"DELETE without revision", 2, signal(`"DELETE"`, `"id":$K,`+now), kept},
		{"DELETE with revision null", 2, signal(`"DELETE"`, `"id":$K,"cqrs_revision":null,`+now), kept},
	}
	r := newRig(t, Postgres, map[string]Table{"thing": {Name: "thing_ref"}}, thingTable)
	t.Cleanup(func() { _ = r.Close() })
	for i, test := range tests {
		key := 1000 + i
		if test.stored != none {
			mustExec(t, r.db, fmt.Sprintf(`INSERT INTO thing_ref (id, name, cqrs_revision, cqrs_updated) VALUES (%d, 'old', %d, '2026-01-01 09:00:00+00')`, key, test.stored))
		}
		m := django(strings.ReplaceAll(test.body, "$K", fmt.Sprint(key)))
		o, err := r.Apply(t.Context(), m)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		have := outcome{o.Result, o.Reason, ""}
		for _, line := range dump(t, r.db, fmt.Sprintf("SELECT concat(cqrs_revision, ' ', name, ' ', coalesce(note, 'null')) AS r FROM thing_ref WHERE id = %d", key)) {
			have.row = strings.TrimPrefix(line, "r=")
		}
		if diff := cmp.Diff(test.want, have, cmp.AllowUnexported(outcome{})); diff != "" {
			t.Errorf("%s: %v (-want +have):\n%s", test.name, o.Err, diff)
		}
	}
}
