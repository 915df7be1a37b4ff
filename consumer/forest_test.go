package consumer

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// forest makes the events of two entities that are tied together, as a master would
// send them. Trees and leaves stand on trees, and names are unique among each, so that
// one row takes what another gives up. Nothing stands on a tree that goes.
type forest struct {
	*rand.Rand
	clock    int
	plants   map[string]map[int]*plant // by entity and key
	versions map[string]event.Version  // of all keys that were ever used
	messages []*message.Message
}

// plant is a row; on is the key of the tree it stands on, 0 for the ground.
type plant struct {
	on   int
	name string
}

const (
	treeID = "tree"
	leafID = "leaf"
	// forestKeys is how many keys each entity has: few, so that they are used again.
	forestKeys = 6
)

func newForest(seed uint64, steps int) *forest {
	f := &forest{
		Rand:   rand.New(rand.NewPCG(seed, 9)),
		plants: map[string]map[int]*plant{treeID: {}, leafID: {}}, versions: map[string]event.Version{},
	}
	for range steps + f.IntN(60) {
		f.step()
	}
	return f
}

// step changes one row, and those that are in its way.
func (f *forest) step() {
	entity, id := []string{treeID, leafID}[f.IntN(2)], 1+f.IntN(forestKeys)
	p := f.plants[entity][id]
	switch {
	case p == nil:
		f.plants[entity][id] = &plant{f.anyTree(entity, id), f.freeName(entity)}
		f.save(entity, id)
	case f.IntN(3) == 0:
		f.remove(entity, id)
	default:
		p.name = f.freeName(entity)
		switch {
		case entity == leafID:
			p.on = f.anyTree(entity, id)
		case f.IntN(3) == 0: // on no other tree: there would be circles
			p.on = 0
		}
		f.save(entity, id)
	}
}

// anyTree returns a tree to stand on, or the ground.
func (f *forest) anyTree(entity string, id int) int {
	trees := slices.DeleteFunc(slices.Sorted(maps.Keys(f.plants[treeID])), func(other int) bool { return entity == treeID && other == id })
	if len(trees) == 0 || f.IntN(4) == 0 {
		return 0
	}
	return trees[f.IntN(len(trees))]
}

func (f *forest) freeName(entity string) string {
	for {
		name, taken := fmt.Sprint("v", f.IntN(2*forestKeys)), false
		for _, p := range f.plants[entity] {
			taken = taken || p.name == name
		}
		if !taken {
			return name
		}
	}
}

// remove deletes a row, after those that stand on it were seen to.
func (f *forest) remove(entity string, id int) {
	for other := 1; entity == treeID && other <= forestKeys; other++ {
		if p := f.plants[leafID][other]; p != nil && p.on == id {
			if f.IntN(2) == 0 {
				f.remove(leafID, other)
			} else {
				p.on = 0
				f.save(leafID, other)
			}
		}
		if p := f.plants[treeID][other]; p != nil && p.on == id {
			p.on = 0
			f.save(treeID, other)
		}
	}
	delete(f.plants[entity], id)
	f.send(event.Delete, entity, id, f.next(entity, id), "")
}

func (f *forest) save(entity string, id int) {
	v := f.next(entity, id)
	f.send(event.Save, entity, id, v, f.fields(entity, id))
	if f.IntN(6) == 0 {
		f.send(event.Sync, entity, id, v, f.fields(entity, id))
	}
}

func (f *forest) fields(entity string, id int) string {
	p, on := f.plants[entity][id], "null"
	if p.on > 0 {
		on = strconv.Itoa(p.on)
	}
	return fmt.Sprintf(`"above":%s,"name":%q,"note":"n%d",`, on, p.name, f.clock)
}

func (f *forest) next(entity string, id int) event.Version {
	f.clock++
	key := fmt.Sprint(entity, " ", id)
	f.versions[key] = version(f.versions[key].Revision+1, f.clock)
	return f.versions[key]
}

func (f *forest) send(signal event.Signal, entity string, id int, v event.Version, fields string) {
	f.messages = append(f.messages, lockstep(envelope(string(signal), entity,
		fmt.Sprintf(`{"id":%d,%s%s}`, id, fields, versionJSON(v.Revision, v.Updated)))))
}

// want returns the rows as a replica should have them, and the tombstones.
func (f *forest) want() []string {
	lines := []string{}
	for key, v := range f.versions {
		entity, number, _ := strings.Cut(key, " ")
		id, _ := strconv.Atoi(number)
		if p := f.plants[entity][id]; p != nil {
			lines = append(lines, fmt.Sprintf("entity=%s id=%d above=%d name=%s cqrs_revision=%d", entity, id, p.on, p.name, v.Revision))
		} else {
			lines = append(lines, fmt.Sprintf("replica=%s key=%d revision=%d updated=%s", entity, id, v.Revision, event.FormatTime(v.Updated)))
		}
	}
	slices.Sort(lines)
	return lines
}

// soil is a way in which the replica's tables are tied together and applied to.
type soil struct {
	key       string // the trees' key's type
	action    string // what the database does to rows that refer to a deleted one
	consumers int
	order     []string // of the tables
	anyNames  bool     // names need not be unique
}

var soils = []soil{
	{key: "bigint", consumers: 1, order: []string{leafID, treeID}},
	{key: "bigint", consumers: 2, order: []string{treeID, leafID}},
	{key: "decimal(10,2)", consumers: 1, order: []string{treeID, leafID}},
	{key: "bigint", action: "ON DELETE CASCADE", consumers: 1, order: []string{leafID, treeID}},
	{key: "decimal(10,2)", action: "ON DELETE SET NULL", consumers: 1, order: []string{treeID, leafID}},
}

func (s soil) rig(t *testing.T, d Dialect) *rig {
	t.Helper()
	unique := map[bool]string{false: "UNIQUE"}[s.anyNames]
	columns := func(key, above string) string {
		return fmt.Sprintf(`(id %s PRIMARY KEY, above %s, name varchar(10) %s, note varchar(20), cqrs_revision bigint NOT NULL, cqrs_updated %%s NOT NULL, `+
			`FOREIGN KEY (above) REFERENCES tree (id) %s)`, key, above, unique, s.action)
	}
	db := openDB(t, d, "CREATE TABLE tree "+columns(s.key, s.key), "CREATE TABLE leaf "+columns("bigint", s.key))
	return rigInOrder(t, db, s.order...)
}

// deliver returns the forest's messages as they may arrive. Where the database deletes
// or changes rows by itself, only repeats come out of order.
func (s soil) deliver(f *forest, seed uint64) []*message.Message {
	h := &history{Rand: f.Rand, messages: f.messages}
	if s.action != "" {
		return h.deliver(1)
	}
	return h.deliver([]int{1, 6, len(f.messages)}[seed%3])
}

// ordered reports whether events of different keys keep their order, too.
func (s soil) ordered(seed uint64) bool { return s.consumers == 1 && (s.action != "" || seed%3 == 0) }

// untie sees to messages that hinder each other for ever. Out of order, two rows may
// come to want each other's names, or a row that refers to a tree made anew may come
// before the deletion of the old one, whose name another tree takes that the new one
// stands on: no order of what is left fits then. So all rows lose by hand what ties them,
// which lets these messages pass, and are sent again as they are.
func (f *forest) untie(t *testing.T, r *rig, left []*message.Message) {
	t.Helper()
	for _, name := range []string{treeID, leafID} {
		mustExec(t, r.db, "UPDATE "+name+" SET above = NULL, name = NULL")
	}
	f.messages = nil
	for _, entity := range []string{treeID, leafID} {
		for id := range f.plants[entity] {
			f.send(event.Sync, entity, id, f.versions[fmt.Sprint(entity, " ", id)], f.fields(entity, id))
		}
	}
	for _, messages := range [][]*message.Message{left, f.messages} {
		if _, left := soils[0].settle(t, r, f.Rand, messages); len(left) > 0 {
			t.Errorf("%d messages do not fit although nothing ties the rows, the first is %s", len(left), left[0].Payload)
		}
	}
}

// settle applies messages in batches, side by side where there are several consumers,
// and those that fail again, as the broker would bring them.
func (s soil) settle(t *testing.T, r *rig, random *rand.Rand, messages []*message.Message) (tally, []*message.Message) {
	t.Helper()
	batches := make([][][]*incoming, s.consumers)
	for rest := messages; len(rest) > 0; {
		n, to := min(len(rest), 1+random.IntN(60)), random.IntN(s.consumers)
		batches[to] = append(batches[to], r.read(t, copies(rest[:n])))
		rest = rest[n:]
	}
	results := make([]result, s.consumers)
	var all sync.WaitGroup
	for i, mine := range batches {
		engine := r.engine
		if i > 0 {
			engine = r.newEngine()
			defer func() { _ = engine.close() }()
		}
		all.Go(func() { results[i] = applyEach(t, engine, mine) })
	}
	all.Wait()
	var sum result
	for _, res := range results {
		sum.add(res.tally)
		sum.failures = append(sum.failures, res.failures...)
	}
	for n := 0; n < 12 && len(sum.failures) > 0; n++ {
		var again []*message.Message
		for _, f := range sum.failures {
			again = append(again, f.in.msg.Copy())
		}
		res := applyEach(t, r.engine, [][]*incoming{r.read(t, again)})
		sum.add(res.tally)
		sum.failures = res.failures
	}
	var left []*message.Message
	for _, f := range sum.failures {
		left = append(left, f.in.msg)
	}
	return sum.tally, left
}

func applyEach(t *testing.T, engine engine, batches [][]*incoming) (sum result) {
	for _, batch := range batches {
		res, err := engine.apply(t.Context(), batch, engine.plan(batch))
		for attempt := 0; dialect.Classify(err) == dialect.Conflict && attempt < 50 && sleep(t.Context(), conflictBackoff(attempt)); attempt++ {
			res, err = engine.apply(t.Context(), batch, engine.plan(batch))
		}
		if err != nil {
			t.Errorf("apply: %v", err)
			return sum
		}
		sum.add(res.tally)
		sum.failures = append(sum.failures, res.failures...)
	}
	return sum
}

// have returns what the replica has, as [forest.want] spells it.
func (r *rig) forest(t *testing.T) []string {
	t.Helper()
	whole := map[Dialect]string{MySQL: "CAST(%s AS signed)", Postgres: "CAST(%s AS bigint)", SQLite: "CAST(%s AS integer)"}[r.dialect]
	lines := dump(t, r.db, `SELECT replica, "key", revision, updated FROM replica_tombstones`)
	for _, name := range []string{treeID, leafID} {
		lines = append(lines, dump(t, r.db, fmt.Sprintf("SELECT '%s' AS entity, %s AS id, %s AS above, name, cqrs_revision FROM %s",
			name, fmt.Sprintf(whole, "id"), fmt.Sprintf(whole, "coalesce(above, 0)"), name))...)
	}
	slices.Sort(lines)
	return lines
}

// Seeds of TestRandomForests: the first one, and how many.
const (
	forestSeed  = "LOCKSTEP_TEST_SEED"
	forestSeeds = "LOCKSTEP_TEST_SEEDS"
)

// TestRandomForests: whatever becomes of rows that refer to each other and take each
// other's names, in whatever batches and order it arrives, and however often, the
// replica ends as the master's tables are. LOCKSTEP_TEST_SEEDS=3000 takes so many
// histories, LOCKSTEP_TEST_SEED=305 begins with that one.
func TestRandomForests(t *testing.T) {
	t.Parallel()
	first, count := number(t, forestSeed, 0), number(t, forestSeeds, 30)
	eachDialect(t, func(t *testing.T, d Dialect) {
		rigs := make([]*rig, len(soils))
		for i, s := range soils {
			rigs[i] = s.rig(t, d)
		}
		for seed := first; seed < first+count && !t.Failed(); seed++ {
			s, r := soils[seed%uint64(len(soils))], rigs[seed%uint64(len(soils))]
			for _, statement := range []string{"DELETE FROM leaf", "UPDATE tree SET above = NULL", "DELETE FROM tree", "DELETE FROM replica_tombstones"} {
				mustExec(t, r.db, statement)
			}
			f := newForest(seed, 40)
			messages := s.deliver(f, seed/uint64(len(soils)))
			sum, left := s.settle(t, r, f.Rand, messages)
			switch {
			case len(left) > 0 && s.ordered(seed/uint64(len(soils))):
				t.Errorf("%d messages never fit, the first is %s", len(left), left[0].Payload)
			case len(left) > 0:
				t.Logf("seed %d: %d messages hinder each other", seed, len(left))
				f.untie(t, r, left)
			}
			if n := sum.applied + sum.duplicate + sum.stale + sum.superseded; n+len(left) != len(messages) {
				t.Errorf("%+v counts %d messages, want %d", sum, n, len(messages))
			}
			if diff := cmp.Diff(f.want(), r.forest(t)); diff != "" {
				t.Errorf("the replica is not the master (-master +replica):\n%s", diff)
			}
			if t.Failed() {
				t.Logf("%+v: repeat with %s=%d %s=1", s, forestSeed, seed, forestSeeds)
			}
		}
	})
}

// number reads a setting of a test.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
