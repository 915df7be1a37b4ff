package consumer

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// endlessBroker has a long queue of large messages and hands out as many
// unacknowledged ones as its prefetch count allows.
type endlessBroker struct {
	*testBroker
	length, prefetch int
	body             func(i int) *message.Message
	acked            atomic.Int64
	most             atomic.Uint64 // bytes on the heap
}

func (b *endlessBroker) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	out := make(chan *message.Message)
	room := make(chan struct{}, b.prefetch)
	go func() {
		defer close(out)
		for i := range b.length {
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
				return
			}
			m := b.body(i)
			go func() {
				<-m.Acked()
				<-room
				b.acked.Add(1)
			}()
			select {
			case out <- m:
			case <-ctx.Done():
				return
			}
			if i%500 == 0 {
				b.measure()
			}
		}
		<-ctx.Done()
	}()
	return out, nil
}

// Publish and PublishAfter keep nothing.
func (b *endlessBroker) Publish(string, ...*message.Message) error { return nil }

func (b *endlessBroker) PublishAfter(context.Context, time.Duration, string, *message.Message) error {
	return nil
}

func (b *endlessBroker) measure() {
	runtime.GC()
	runtime.GC() // what has a finalizer goes with the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	b.most.Store(max(b.most.Load(), m.HeapAlloc))
}

// TestMemoryIsBounded: what the consumer holds depends on the prefetch count and
// the batch, not on the length of the queue, also when rows wait for others that
// never come.
func TestMemoryIsBounded(t *testing.T) { //nolint:paralleltest // it measures the heap
	const size, prefetch, length = 20_000, 1001, 6000 // 120 MB pass through
	large := strings.Repeat("x", size)
	db := openDB(t, SQLite, accountTable,
		`CREATE TABLE child_ref (id bigint PRIMARY KEY, account bigint REFERENCES account_ref (id), note text, cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL)`)
	r := rigOn(t, db, map[string]Table{"account": {Name: "account_ref", Columns: accountColumns}, "child": {Name: "child_ref"}})
	b := &endlessBroker{testBroker: newTestBroker(), length: length, prefetch: prefetch, body: func(i int) *message.Message {
		if i%20 == 0 {
			return lockstep(envelope("SAVE", "child", fmt.Sprintf(`{"id":%d,"account":-1,"note":%q,%s}`, i, large, versionJSON(1, at(1)))))
		}
		return save(i%100, i+1, large)
	}}
	b.measure()
	start := b.most.Load()
	r.broker = b
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	eventually(t, "nearly all are settled", func() bool { return b.acked.Load() >= length-defaultMaxParked })
	parked := r.Stats().Parked
	if parked == 0 {
		t.Error("no message was parked")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	grown := int64(b.most.Load()) - int64(start)
	if limit := int64(prefetch*size*2 + 2*maxBatchBytes); grown > limit {
		t.Errorf("the heap grew by %d MB, want at most %d", grown>>20, limit>>20)
	}
	t.Logf("%d were parked, and the heap grew by %d MB while %d MB went through", parked, grown>>20, length*size>>20)
}
