package integration_test

import (
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
)

// settled waits until everything has arrived, stops all services and checks what
// holds after every scenario. It returns what was published.
func (r *rig) settled(t *testing.T) []wired {
	t.Helper()
	r.checked = true
	r.caughtUp(t)
	r.stopAll(t)
	r.checkOutbox(t)
	r.checkRows(t, "after the scenario")
	events := r.wire.events(t)
	r.checkWire(t, events)
	r.replay(t, events)
	r.checkRows(t, "after all messages came again in another order")
	if n := len(r.dead.all(t)); n != r.wantDead {
		t.Errorf("%d dead letters, want %d", n, r.wantDead)
	}
	return events
}

// caughtUp waits until the replica has what the master has. It fails the test
// when it waits in vain, and goes on, for the checks tell more.
func (r *rig) caughtUp(t *testing.T) {
	t.Helper()
	if !eventually(t, func() bool {
		return number(t, r.master, "SELECT count(*) FROM outbox") == 0 && r.alike(t)
	}) {
		t.Errorf("not caught up after %v: %d messages in the outbox, %d in the queue",
			patience, number(t, r.master, "SELECT count(*) FROM outbox"), r.depth(t))
	}
}

// alike compares cheaply first.
func (r *rig) alike(t *testing.T) bool {
	t.Helper()
	for _, e := range r.entities {
		if !e.replicated() {
			continue
		}
		const sum = "SELECT count(*) + coalesce(sum(cqrs_revision), 0) FROM "
		if number(t, r.master, sum+e.table) != number(t, r.replica, sum+e.ref) {
			return false
		}
		if !slices.Equal(lines(t, r.master, e.masterRows()), lines(t, r.replica, e.replicaRows())) {
			return false
		}
	}
	return true
}

// applied is a number that grows as the replica follows, as long as nothing is
// deleted.
func (r *rig) applied(t *testing.T) int64 {
	t.Helper()
	return number(t, r.replica, "SELECT coalesce(sum(cqrs_revision), 0) FROM account_ref")
}

// newest is the highest revision that the replica has met.
func (r *rig) newest(t *testing.T) int64 {
	t.Helper()
	return number(t, r.replica, `SELECT coalesce(max(revision), 0) FROM (
SELECT revision FROM replica_tombstones UNION ALL SELECT cqrs_revision FROM account_ref) r`)
}

func (r *rig) checkOutbox(t *testing.T) {
	t.Helper()
	for table, want := range map[string]int{"outbox": 0, "outbox_failures": 0, "outbox_dead": r.wantBuried} {
		if n := number(t, r.master, "SELECT count(*) FROM "+table); n != int64(want) {
			t.Errorf("%d rows in %s, want %d", n, table, want)
		}
	}
}

// buried returns the versions that ended in outbox_dead, as checkWire calls them.
func (r *rig) buried(t *testing.T) map[string]bool {
	t.Helper()
	versions := map[string]bool{}
	rows, err := r.master.QueryContext(t.Context(), "SELECT payload FROM outbox_dead")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var payload []byte
		if err := rows.Scan(&payload); err != nil {
			t.Fatal(err)
		}
		w := decode(t, message.NewMessage("", payload))
		versions[w.version()] = true
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return versions
}

func (r *rig) checkRows(t *testing.T, when string) {
	t.Helper()
	for _, e := range r.entities {
		if !e.replicated() {
			continue
		}
		want, have := lines(t, r.master, e.masterRows()), lines(t, r.replica, e.replicaRows())
		if diff := difference(want, have); diff != "" {
			t.Errorf("%s: %s is not what %s is (-want +have):\n%s", when, e.ref, e.table, diff)
		}
	}
}

// checkWire holds what was published against the revisions that the master gave.
func (r *rig) checkWire(t *testing.T, events []wired) {
	t.Helper()
	newest, buried := r.revisions(t), r.buried(t)
	places := map[string][]int{} // of a version
	ids := map[string]string{}
	var faults []string
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	for i, w := range events {
		version := w.version()
		if id, seen := ids[version]; seen && id != w.msg.UUID {
			fault("%s was given to two events", version)
		}
		ids[version] = w.msg.UUID
		places[version] = append(places[version], i)
		if n := newest[w.row()]; w.revision > n {
			fault("%s was published; the master only came to %d", version, n)
		}
	}
	for _, row := range slices.Sorted(maps.Keys(newest)) {
		place := -1
		for revision := int64(1); revision <= newest[row]; revision++ {
			version := versionOf(row, revision)
			at := places[version]
			if len(at) == 0 {
				if !buried[version] {
					fault("%s of %d was never published", version, newest[row])
				}
				continue
			}
			if !r.echoes {
				at = at[len(at)-1:]
			}
			next := slices.IndexFunc(at, func(i int) bool { return i > place })
			if next < 0 {
				fault("%s was not published again after revision %d", version, revision-1)
				continue
			}
			place = at[next]
		}
	}
	if len(faults) > 0 {
		t.Errorf("%d faults on the wire, the first:\n%s", len(faults), strings.Join(faults[:min(len(faults), 10)], "\n"))
	}
}

// revisions returns the newest revision of each key, deleted ones included.
func (r *rig) revisions(t *testing.T) map[string]int64 {
	t.Helper()
	newest := map[string]int64{}
	for _, e := range r.entities {
		if !e.replicated() {
			continue
		}
		query := fmt.Sprintf(`SELECT "key", max(revision) FROM (
SELECT CAST(%s AS char(200)) AS "key", cqrs_revision AS revision FROM %s
UNION ALL SELECT "key", revision FROM outbox_tombstones WHERE entity = '%s') r GROUP BY "key"`, e.columns[0].field, e.table, e.id)
		for _, line := range lines(t, r.master, query) {
			var key string
			var revision int64
			if _, err := fmt.Sscan(strings.ReplaceAll(line, separator, " "), &key, &revision); err != nil {
				t.Fatal(err)
			}
			newest[e.id+"/"+key] = revision
		}
	}
	return newest
}

// repeats returns how many messages were published more than once.
func repeats(events []wired) int {
	ids := map[string]bool{}
	for _, w := range events {
		ids[w.msg.UUID] = true
	}
	return len(events) - len(ids)
}

// replay sends everything to the replica's queue twice more, shuffled and then
// from the last to the first, which ends each key with its oldest event. It waits
// until a new consumer is through with it and the queue is empty.
func (r *rig) replay(t *testing.T, events []wired) {
	t.Helper()
	// Batches so small that what of a key must not be applied meets its row, not
	// only its newer message.
	c := r.consume(t, r.brokerURL, consumer.Config{BatchSize: 1 + len(events)/200})
	defer c.stop(t)
	seed := rand.Uint64()
	t.Logf("%d messages again, first shuffled with seed %d, then backwards", len(events), seed)
	backwards := slices.DeleteFunc(slices.Clone(events), func(w wired) bool { return r.unfit != nil && r.unfit(w) })
	slices.Reverse(backwards)
	again := slices.Clone(backwards)
	rand.New(rand.NewPCG(seed, 0)).Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
	again = append(again, backwards...)
	const atOnce = 500 // few enough for a busy broker to confirm in time
	for part := range slices.Chunk(again, atOnce) {
		topics, messages := make([]string, len(part)), make([]*message.Message, len(part))
		for i, w := range part {
			topics[i] = event.DirectTopic(r.queue, w.ev.CQRSID)
			messages[i] = w.msg.Copy()
		}
		if err := errors.Join(r.control.PublishAsync(t.Context(), topics, messages)(t.Context())...); err != nil {
			t.Fatalf("replay: %v", err)
		}
	}
	r.lastOfQueue(t)
	c.stop(t)
	if !eventually(t, func() bool { return r.depth(t) == 0 }) {
		t.Errorf("%d messages in the queue, want none", r.depth(t))
	}
}

// lastOfQueue sends a message to the queue and waits until it was applied: the
// deletion of an unused key, which leaves nothing but a tombstone.
func (r *rig) lastOfQueue(t *testing.T) {
	t.Helper()
	e := r.entities[0]
	const key = -1
	gone := event.Event{Signal: event.Delete, CQRSID: e.id, Key: fmt.Append(nil, key), Data: fmt.Appendf(nil,
		`{"id":%d,"cqrs_revision":1,"cqrs_updated":%q}`, key, event.FormatTime(time.Now()))}
	if err := r.control.Publish(event.DirectTopic(r.queue, e.id), message.NewMessage("last", gone.AppendJSON(nil))); err != nil {
		t.Fatal(err)
	}
	if !eventually(t, func() bool {
		return number(t, r.replica, fmt.Sprintf(`SELECT count(*) FROM replica_tombstones WHERE "key" = '%d'`, key)) > 0
	}) {
		t.Errorf("the consumer did not get through its queue within %v: %d messages are left", patience, r.depth(t))
	}
}

const separator = " | "

// lines returns the rows of a query, one a line.
func lines(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	var all []string
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		texts := make([]string, len(values))
		for i, v := range values {
			texts[i] = shown(v)
		}
		all = append(all, strings.Join(texts, separator))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func shown(v any) string {
	switch v := v.(type) {
	case time.Time:
		return event.FormatTime(v)
	case []byte:
		return string(v)
	}
	return fmt.Sprint(v)
}

// difference shows the first lines that only one side has; cmp's own would take
// very long for ten thousand.
func difference(want, have []string) string {
	counts := map[string]int{}
	for _, line := range want {
		counts[line]++
	}
	for _, line := range have {
		counts[line]--
	}
	var b strings.Builder
	n := 0
	for _, line := range slices.Sorted(maps.Keys(counts)) {
		if counts[line] == 0 {
			continue
		}
		if n++; n > 10 {
			continue
		}
		sign := "-"
		if counts[line] < 0 {
			sign = "+"
		}
		fmt.Fprintf(&b, "%s %s\n", sign, line)
	}
	if n > 10 {
		fmt.Fprintf(&b, "and %d more\n", n-10)
	}
	return b.String()
}
