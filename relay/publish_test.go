package relay_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

func TestMessageIDsAreStable(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		m.put(t, "a1")
		if _, err := m.ExecContext(t.Context(), columns(`INSERT INTO outbox (topic, key, payload, metadata)`, m.dialect)+
			` VALUES ('account', 'b', 'b1', '{"lockstep-event-id": "given", "n": 5, "none": null}')`); err != nil {
			t.Fatal(err)
		}
		var seen []*message.Message
		var mu sync.Mutex
		tries := 0
		pub := &idRecorder{publish: func(msgs []*message.Message) error {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, msgs...)
			if tries++; tries == 1 {
				return errors.New("connection lost")
			}
			return nil
		}}
		_, stop := m.start(t, pub, relay.Config{})
		m.drained(t)
		stop()
		if len(seen) != 4 || seen[0].UUID != seen[2].UUID || len(seen[0].UUID) != 36 || seen[1].UUID != "given" {
			t.Fatalf("ids of the messages sent: %v", seen)
		}
		want := message.Metadata{event.HeaderEventID: "given", "n": "5", event.HeaderOutboxID: "2"}
		if diff := cmp.Diff(want, seen[1].Metadata); diff != "" {
			t.Errorf("metadata (-want +have):\n%s", diff)
		}
	})
}

type idRecorder struct {
	recorder
	publish func(msgs []*message.Message) error
}

func (r *idRecorder) PublishAsync(_ context.Context, _ []string, msgs []*message.Message) func(context.Context) []error {
	err := r.publish(msgs)
	return func(context.Context) []error { return slices.Repeat([]error{err}, len(msgs)) }
}

func TestBatchBytesBoundAFetch(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		large := "b" + strings.Repeat("x", 5000)
		m.put(t, "a1", large, "c1", "d1")
		largest := 0
		pub := &idRecorder{publish: func(msgs []*message.Message) error { largest = max(largest, len(msgs)); return nil }}
		_, stop := m.start(t, pub, relay.Config{BatchBytes: 1000})
		m.drained(t)
		stop()
		if largest != 2 {
			t.Errorf("largest batch has %d messages, want 2: a batch ends when it has passed its bytes", largest)
		}
	})
}

func TestStockPublisher(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		pub := &stock{refuse: map[string]bool{"a1": true}}
		for i := range 50 {
			m.put(t, fmt.Sprintf("%c%02d", 'b'+i%5, i))
		}
		m.put(t, "a1", "a2")
		r, stop := m.start(t, pub, relay.Config{MaxAttempts: 2})
		others := 50
		eventually(t, "a1 is dead", func() bool {
			m.put(t, fmt.Sprintf("z%05d", others)) // shows that the broker is there
			others++
			return m.count(t, "outbox_dead") == 1
		})
		m.drained(t)
		stop()
		if s := r.Stats(); int(s.Published) != others+1 || s.Dead != 1 {
			t.Errorf("stats %+v, want %d published and a1 dead", s, others+1)
		}
		// A group with a culprit in it is published again one by one, so what
		// counts is each message's last time.
		slices.Reverse(pub.published)
		seen, next := map[string]bool{}, map[byte]string{}
		for _, p := range pub.published {
			if !seen[p] && next[p[0]] != "" && p > next[p[0]] {
				t.Errorf("%s after %s", next[p[0]], p)
			}
			if !seen[p] {
				seen[p], next[p[0]] = true, p
			}
		}
	})
}

// meeting is a stock publisher whose calls wait for each other.
type meeting struct {
	stock
	lanes   int
	present int
	most    int
	all     chan struct{} // closed when as many have met as there are lanes
	met     sync.Once
}

func (p *meeting) Publish(topic string, msgs ...*message.Message) error {
	p.mu.Lock()
	p.present++
	if p.most = max(p.most, p.present); p.present == p.lanes {
		p.met.Do(func() { close(p.all) })
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.present--
		p.mu.Unlock()
	}()
	select {
	case <-p.all:
		return p.stock.Publish(topic, msgs...)
	case <-time.After(20 * time.Second):
		return errors.New("no other lane publishes meanwhile")
	}
}

// Lanes publish side by side, and no more of them than there may be.
func TestLanesWorkSideBySide(t *testing.T) {
	t.Parallel()
	db, _ := testdb.SQLite(t)
	m := migrated(t, db, relay.SQLite)
	for key := 'a'; key <= 'z'; key++ { // no lane is without a key
		m.put(t, string(key)+"1")
	}
	pub := &meeting{lanes: 3, all: make(chan struct{})}
	_, stop := m.start(t, pub, relay.Config{Lanes: 3})
	m.drained(t)
	stop()
	if pub.most != 3 || len(pub.published) != 26 {
		t.Errorf("%d messages, at most %d at a time, want 26 and 3", len(pub.published), pub.most)
	}
}

// stock is a Watermill publisher that knows neither pipelining nor refusals.
type stock struct {
	mu        sync.Mutex
	refuse    map[string]bool
	published []string
}

func (s *stock) Publish(_ string, msgs ...*message.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range msgs {
		if s.refuse[string(m.Payload)] {
			return errors.New("some error")
		}
		s.published = append(s.published, string(m.Payload))
	}
	return nil
}

func (s *stock) Close() error { return nil }
