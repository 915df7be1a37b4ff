package relay

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
)

// eventRow is a row as package outbox writes it: "SAVE 3 {…data} {…previous}" of key a.
func eventRow(t *testing.T, id int64, text string) row {
	t.Helper()
	var signal, data, previous string
	var revision int64
	if _, err := fmt.Sscanf(text, "%s %d %s %s", &signal, &revision, &data, &previous); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	data = strings.TrimSuffix(data, "}")
	if data != "{" {
		data += ","
	}
	e := event.Event{
		Signal: event.Signal(signal), CQRSID: "account", Key: json.RawMessage(`"a"`),
		Data: json.RawMessage(fmt.Sprintf(`%s"cqrs_revision":%d,"cqrs_updated":"2026-01-02 03:04:%02d+00:00"}`, data, revision, revision)),
	}
	if previous != "null" {
		e.Previous = json.RawMessage(previous)
	}
	return row{
		id: id, unit: unit{"account", "a", ""}, topic: "account", payload: e.AppendJSON(nil),
		metadata: []byte(`{"lockstep-event-id": "01890a5d-ac96-774b-bcce-b302099a8057"}`),
	}
}

// texts are rows in the form of eventRow, led by the ids they are sent for.
func texts(t *testing.T, rows []row) (all []string) {
	t.Helper()
	for _, r := range rows {
		e, err := event.Decode(r.payload)
		if err != nil {
			t.Fatal(err)
		}
		data, _, _ := strings.Cut(string(e.Data), `"cqrs_revision"`)
		v, err := e.Version()
		if err != nil {
			t.Fatal(err)
		}
		previous := string(e.Previous)
		if e.Previous == nil {
			previous = "null"
		}
		stands := append(slices.Sorted(slices.Values(r.skipped)), r.id)
		all = append(all, fmt.Sprintf("%v %s %d %s} %s", stands, e.Signal, v.Revision, strings.TrimSuffix(data, ","), previous))
	}
	return all
}

func TestCollapsedEvents(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ have, want []string }{
		"the newest state stands for all": {
			[]string{`SAVE 1 {"n":1} null`, `SAVE 2 {"n":2} null`, `SAVE 3 {"n":3} null`},
			[]string{`[1 2 3] SAVE 3 {"n":3} null`},
		},
		"of each field the oldest value": {
			[]string{`SAVE 4 {"n":2,"m":0} {"n":1}`, `SAVE 5 {"n":3,"m":0} {"n":2}`, `SAVE 6 {"n":3,"m":9} {"m":0}`},
			[]string{`[1 2 3] SAVE 6 {"n":3,"m":9} {"n":1,"m":0}`},
		},
		"a field that has its value again has not changed": {
			[]string{`SAVE 4 {"n":2} {"n":1}`, `SAVE 5 {"n":1} {"n":2}`},
			[]string{`[1 2] SAVE 5 {"n":1} {}`},
		},
		"created and changed is created": {
			[]string{`SAVE 1 {"n":1,"m":null} {"n":null}`, `SAVE 2 {"n":2,"m":5} {"n":1,"m":null}`},
			[]string{`[1 2] SAVE 2 {"n":2,"m":5} {"n":null,"m":null}`},
		},
		"previous values that only one of them has cannot be merged": {
			[]string{`SAVE 1 {"n":1} null`, `SAVE 2 {"n":2} {"n":1}`, `SAVE 3 {"n":3} {"n":2}`},
			[]string{`[1] SAVE 1 {"n":1} null`, `[2 3] SAVE 3 {"n":3} {"n":1}`},
		},
		"a replica keeps a field that is not sent any more": {
			[]string{`SAVE 1 {"n":1,"m":1} null`, `SAVE 2 {"n":2} null`, `SAVE 3 {"m":1,"n":2} null`},
			[]string{`[1] SAVE 1 {"n":1,"m":1} null`, `[2 3] SAVE 3 {"m":1,"n":2} null`},
		},
		"a deletion stands for all before it, a new row does not": {
			[]string{`SAVE 1 {"n":1} null`, `SAVE 2 {"n":2} null`, `DELETE 3 {"id":1} null`, `SAVE 4 {"n":1} null`, `SAVE 5 {"n":5} null`},
			[]string{`[1 2 3] DELETE 3 {"id":1} null`, `[4 5] SAVE 5 {"n":5} null`},
		},
		"the last deletion stands for earlier lives": {
			[]string{`DELETE 3 {"id":1} null`, `SAVE 4 {"n":1} null`, `DELETE 5 {"id":1} null`, `SAVE 6 {"n":1} null`, `DELETE 7 {"id":1} null`, `SAVE 8 {"n":2} null`},
			[]string{`[1 2 3 4 5] DELETE 7 {"id":1} null`, `[6] SAVE 8 {"n":2} null`},
		},
		"revisions that do not grow": {
			[]string{`SAVE 5 {"n":5} null`, `SAVE 5 {"n":6} null`, `SAVE 4 {"n":4} null`},
			[]string{`[1] SAVE 5 {"n":5} null`, `[2] SAVE 5 {"n":6} null`, `[3] SAVE 4 {"n":4} null`},
		},
		"a SYNC stays, and nothing moves past it": {
			[]string{`SAVE 1 {"n":1} null`, `SYNC 1 {"n":1} null`, `SAVE 2 {"n":2} null`, `SAVE 3 {"n":3} null`},
			[]string{`[1] SAVE 1 {"n":1} null`, `[2] SYNC 1 {"n":1} null`, `[3 4] SAVE 3 {"n":3} null`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFolder()
			for i, text := range test.have {
				f.add([]row{eventRow(t, int64(i+1), text)})
			}
			if diff := cmp.Diff(test.want, texts(t, f.take())); diff != "" {
				t.Errorf("sent (-want +have):\n%s", diff)
			}
		})
	}
}

// What is not known to be a whole state of ours is sent, and in its place.
func TestOtherMessagesAreNotCollapsed(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(r *row){
		"a header of its own":   func(r *row) { r.metadata = []byte(`{"lockstep-event-id": "1", "tenant": "x"}`) },
		"no event id":           func(r *row) { r.metadata = []byte(`{}`) },
		"metadata that is none": func(r *row) { r.metadata = []byte(`{"lockstep-event-id"`) },
		"not an event":          func(r *row) { r.payload = []byte(`{"n": 1}`) },
		"another entity":        func(r *row) { r.topic = "order" },
		"to one queue":          func(r *row) { r.topic = "cqrs.billing.account" },
		"another key":           func(r *row) { r.payload = []byte(strings.Replace(string(r.payload), `"a"`, `"b"`, 1)) },
		"a retry":               func(r *row) { r.payload = []byte(strings.Replace(string(r.payload), `"retries":0`, `"retries":1`, 1)) },
		"a sooner end": func(r *row) {
			r.payload = []byte(strings.Replace(string(r.payload), `"expires":null`, `"expires":"2026-01-02T03:04:05+00:00"`, 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rows := []row{eventRow(t, 1, `SAVE 1 {"n":1} null`), eventRow(t, 2, `SAVE 2 {"n":2} null`), eventRow(t, 3, `SAVE 3 {"n":3} null`)}
			change(&rows[1])
			if name == "a sooner end" {
				rows = rows[:2]
			}
			f := newFolder()
			f.add(rows)
			wantIDs(t, "sent", ids(rows), ids(f.take()))
		})
	}
}

// The rows of a refused message are sent one by one: nobody knows whose fault it was.
func TestRefusedCollapsedMessageIsTakenApart(t *testing.T) {
	t.Parallel()
	l, now := newLedger(), time.Now()
	f := newFolder()
	f.add(l.admit([]row{
		eventRow(t, 1, `SAVE 1 {"n":1} null`), eventRow(t, 2, `SAVE 2 {"n":2} null`), eventRow(t, 3, `DELETE 3 {"id":1} null`),
		eventRow(t, 4, `SAVE 4 {"n":4} null`), eventRow(t, 5, `SAVE 5 {"n":5} null`),
	}))
	rows := f.take()
	wantIDs(t, "sent", []int64{3, 5}, ids(rows))
	if l.underWay() == 0 {
		t.Error("nothing is under way although five rows are")
	}
	s := l.settle(rows, []error{refusal{permanent: true}, nil}, testPolicy, now)
	if len(s.done)+len(s.failed)+len(s.dead) > 0 || s.apart != 1 {
		t.Errorf("settled %+v, want nothing but one message taken apart", s)
	}
	if l.underWay() != 0 {
		t.Error("something is under way although all is settled")
	}
	due, _ := l.due(now)
	wantIDs(t, "sent again, each row by itself", []int64{1, 2, 3, 4, 5}, due)
}

// Rows under way behind a refused one wait with all they stand for.
func TestCollapsedMessageBehindARefusedOne(t *testing.T) {
	t.Parallel()
	l, now := newLedger(), time.Now()
	first := l.admit([]row{eventRow(t, 1, `SAVE 1 {"n":1} null`)})
	f := newFolder()
	f.add(l.admit([]row{eventRow(t, 2, `SAVE 2 {"n":2} null`), eventRow(t, 3, `SAVE 3 {"n":3} null`)}))
	behind := f.take()
	l.settle(first, []error{refusal{}}, testPolicy, now)
	wantIDs(t, "deleted", nil, l.settle(behind, nil, testPolicy, now).done)
	retried := l.admit(again([]row{eventRow(t, 1, `SAVE 1 {"n":1} null`)}))
	l.settle(retried, nil, testPolicy, now)
	due, _ := l.due(now)
	wantIDs(t, "sent again behind it", []int64{2, 3}, due)
}
