package jetstream

import (
	"context"
	"fmt"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go/jetstream"
)

// A consumer that goes while the bindings are listed moves the others up, from one page of
// the list to the one before it, which has been read. No queue is taken for unbound by that.
func TestQueueAtTheBorderOfAPageIsBound(t *testing.T) {
	t.Parallel()
	b, err := Open(t.Context(), "jetstream+embedded://"+t.TempDir(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	s := b.current()
	consumer := func(name string) {
		_, err := s.stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{
			Name: name, FilterSubject: b.names.nothing(), AckPolicy: jetstream.AckExplicitPolicy, MemoryStorage: true,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	const lock = lockPrefix + "other"
	consumer(lock)
	for i := range listPage - 2 { // with the keeper and the lock a page
		consumer(fmt.Sprintf("a%d", i))
	}
	if err := b.Bind(t.Context(), "q", "account"); err != nil {
		t.Fatal(err)
	}
	s.stream = &unlocking{Stream: s.stream, lock: lock}
	errs := b.PublishAsync(t.Context(), []string{"account"}, []*message.Message{message.NewMessage("1", nil)})(t.Context())
	if errs != nil {
		t.Errorf("published to a queue that is bound: %v", errs)
	}
}

// unlocking deletes a lock just before the end of the first page of a list.
type unlocking struct {
	jetstream.Stream
	lock string
}

func (u *unlocking) ListConsumers(ctx context.Context) jetstream.ConsumerInfoLister {
	list := &unlockingList{ConsumerInfoLister: u.Stream.ListConsumers(ctx), out: make(chan *jetstream.ConsumerInfo)}
	go func() {
		defer close(list.out)
		n := 0
		for info := range list.ConsumerInfoLister.Info() {
			if n++; n == listPage-1 && u.lock != "" {
				list.deleted = u.DeleteConsumer(ctx, u.lock)
				u.lock = ""
			}
			list.out <- info
		}
	}()
	return list
}

type unlockingList struct {
	jetstream.ConsumerInfoLister
	out     chan *jetstream.ConsumerInfo
	deleted error
}

func (l *unlockingList) Info() <-chan *jetstream.ConsumerInfo { return l.out }

func (l *unlockingList) Err() error {
	if l.deleted != nil {
		return l.deleted
	}
	return l.ConsumerInfoLister.Err()
}
