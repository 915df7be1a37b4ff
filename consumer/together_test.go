package consumer

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
)

// TestEveryOrderOfTwoConsumers: whatever two consumers of a queue make of a few
// messages for each of the same keys, saves, deletions and SYNCs, forced ones too,
// they leave what some order of them leaves by the decision table. So nothing they
// do at the same time is seen half.
func TestEveryOrderOfTwoConsumers(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		const rounds, keys, each = 40, 6, 3
		r := accountRig(t, d)
		var runs []*running
		for range 2 {
			r := rigOn(t, r.db, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}})
			r.cfg.BatchSize, r.cfg.Now = 5, time.Now
			if err := Handle(r.Consumer, "author", func(context.Context, Tx, Event[author]) error { return nil }); err != nil {
				t.Fatal(err)
			}
			broker := newTestBroker() // of each its own: else one of them takes nearly all
			runs = append(runs, r.start(t, broker, broker))
		}
		random := rand.New(rand.NewPCG(1, uint64(len(d))))
		total := 0
		for round := range rounds {
			sent := make(map[int][]change, keys)
			var messages []*message.Message
			for range each {
				for key := round * keys; key < (round+1)*keys; key++ {
					c := anyChange(random)
					sent[key] = append(sent[key], c)
					messages = append(messages, decisionMessage(key, c), handled(decisionMessage(key, c), key))
				}
			}
			for _, m := range messages {
				runs[random.IntN(2)].broker.deliver(m)
			}
			total += len(messages)
			eventually(t, "all acknowledged", func() bool {
				first, _ := runs[0].broker.counts()
				second, _ := runs[1].broker.counts()
				return first+second >= total
			})
			for key, changes := range sent {
				possible := map[state]bool{}
				everyOrder(state{}, changes, possible)
				if have, _ := r.world(t, key); !possible[have] {
					t.Errorf("key %d: have %+v, which no order of %+v leaves", key, have, changes)
				}
				if have := seen(t, r, key); !possible[have] {
					t.Errorf("key %d: the handlers have seen %+v, which no order of %+v leaves", key, have, changes)
				}
			}
		}
		for _, run := range runs {
			if s := run.Stats(); s.Pauses+s.Retried+s.Dead > 0 {
				t.Errorf("have %+v, want no pause and no failure", s)
			}
		}
	})
}

// anyChange returns a message of a Lockstep master or of django-cqrs.
func anyChange(random *rand.Rand) change {
	revision := 1 + random.IntN(5)
	c := change{Version: version(int64(revision), 10*revision)}
	switch random.IntN(12) {
	default:
		c.signal = event.Save
	case 2, 3:
		c.signal = event.Delete
	case 4:
		c.signal = event.Sync
	case 5:
		c.signal, c.force = event.Sync, true
	}
	if random.IntN(8) == 0 {
		c.restarts, c.force = true, false
	}
	return c
}

// handled makes an author's message of an account's.
func handled(m *message.Message, key int) *message.Message {
	m.Payload = []byte(keyed(strings.Replace(string(m.Payload), `"account"`, `"author"`, 1), strconv.Itoa(key)))
	return m
}

// seen returns what the handlers' guard holds of an author.
func seen(t *testing.T, r *rig, key int) state {
	t.Helper()
	x := r.newInbox(r.cfg.Logger)
	defer func() { _ = x.close() }()
	statements, err := x.statements(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tx, err := r.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	have, err := x.stored(t.Context(), tx, statements, &incoming{ev: event.Event{CQRSID: "author"}, key: strconv.Itoa(key)})
	if err != nil {
		t.Fatal(err)
	}
	have.Updated = have.Updated.UTC()
	return have
}

// everyOrder collects what the changes leave in any order.
func everyOrder(have state, changes []change, possible map[state]bool) {
	if len(changes) == 0 {
		possible[have] = true
		return
	}
	for i, c := range changes {
		_, then := decide(have, c)
		everyOrder(then, slices.Delete(slices.Clone(changes), i, i+1), possible)
	}
}
