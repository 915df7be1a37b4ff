package consumer

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// TestPoisonEndsOnceAndHoldsUpNothing: bodies made to break something end as dead letters or rows, each
// once, and hold up nothing beside them.
func TestPoisonEndsOnceAndHoldsUpNothing(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		r := newRig(t, d, map[string]Table{"doc": {Name: "doc_ref", MaxRetries: NoRetries}},
			`CREATE TABLE doc_ref (id text PRIMARY KEY, j jsonb, n numeric(30,4), note text, cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`)
		broker := newTestBroker()
		run := r.start(t, broker, broker)
		doc := func(key, members string) *message.Message {
			return lockstep(envelope("SAVE", "doc", `{"id":`+key+`,`+members+versionJSON(1, at(1))+`}`))
		}
		deep := strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000)
		long := strings.Repeat("x", 10_000)
		poison := []*message.Message{
			doc(`"deep"`, `"j":`+deep+`,`),
			doc(`"deep elsewhere"`, `"other":`+deep+`,`),
			doc(`"large"`, `"note":"`+strings.Repeat("y", 10<<20)+`",`),
			doc(`"twice"`, `"note":"a","note":"b","id":"twice","id":"really",`),
			doc(`"nul\u0000"`, ``),
			doc(`"`+long+`"`, ``),
			doc("\"a\xff\"", ``),
			doc(`"\ud800"`, ``),
			doc(`"number"`, `"n":1e400,`),
			doc(`"number 2"`, `"n":1`+strings.Repeat("0", 5000)+`,`),
			doc(`"number 3"`, `"n":1e999999999999,`),
			doc(`{"a":1}`, ``),
			doc(`["a","b"]`, ``),
			doc(`1e400`, ``),
			doc(`true`, ``),
			lockstep(strings.Repeat(`{"a":`, 10_000)),
			lockstep(envelope("DELETE", "doc", `{"id":"`+long+`",`+versionJSON(2, at(2))+`}`)),
			lockstep(envelope("DELETE", "doc", `{"id":"nul\u0000",`+versionJSON(2, at(2))+`}`)),
		}
		sent := 0
		for i, m := range poison {
			broker.deliver(doc(fmt.Sprintf(`"before %d"`, i), ""), m, doc(fmt.Sprintf(`"after %d"`, i), ""))
			sent += 3
		}
		start := time.Now()
		for broker.settledAll() < sent && time.Since(start) < 2*enough {
			linger(t.Context(), 5*time.Millisecond)
		}
		if acked, nacked := broker.counts(); acked != sent || nacked != 0 {
			t.Errorf("%d acknowledged, %d given back, want all %d acknowledged", acked, nacked, sent)
		}
		if err := run.stop(t); err != nil {
			t.Error(err)
		}
		want := []string{fmt.Sprintf("n=%d", 2*len(poison))}
		if diff := cmp.Diff(want, dump(t, r.db, "SELECT count(*) AS n FROM doc_ref WHERE id LIKE 'before %' OR id LIKE 'after %'")); diff != "" {
			t.Errorf("good rows (-want +have):\n%s", diff)
		}
		letters := len(broker.on("cqrs.dead_letter_replica.doc")) + len(broker.on("cqrs.dead_letter_replica.unknown"))
		s := r.Stats()
		if done := int(s.Applied+s.Duplicate+s.Stale+s.Superseded) + letters; done != sent || s.Pauses != 0 {
			t.Errorf("%d messages came to something, want %d; %+v", done, sent, s)
		}
	})
}

// settledAll counts what was acknowledged or given back.
func (b *testBroker) settledAll() int {
	acked, nacked := b.counts()
	return acked + nacked
}
