package brokertest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Letterbox is what an adapter may have beside [Adapter].
type Letterbox interface {
	Browse(ctx context.Context, queue string, visit func(msg *message.Message) (take bool, err error)) error
	Inspect(ctx context.Context, queue string) (messages, consumers int, err error)
}

// letterbox returns the adapter's, or ends the test, which is passed without one.
func (f *fixture) letterbox() Letterbox {
	box, ok := f.Adapter.(Letterbox)
	if !ok {
		f.t.Skip("the adapter has no Browse and Inspect: they are optional")
	}
	return box
}

// browse returns the bodies of a queue and takes those out that it is told to.
func (f *fixture) browse(box Letterbox, queue string, take func(body string) bool) (bodies []string) {
	f.t.Helper()
	err := box.Browse(f.t.Context(), queue, func(msg *message.Message) (bool, error) {
		bodies = append(bodies, string(msg.Payload))
		return take(string(msg.Payload)), nil
	})
	if err != nil {
		f.t.Fatalf("Browse: %v", err)
	}
	return bodies
}

func keep(string) bool { return false }

// testBrowse: more messages than a consumer could hold are all seen, stay, and
// stay in their order.
func testBrowse(t *testing.T, f *fixture) {
	box := f.letterbox()
	const n = 2*Prefetch + 600
	queue := f.name("letters")
	f.bind(queue, queue)
	msgs, want := numbered(n)
	msgs[0].Metadata.Set("reason", "data")
	f.publish(queue, msgs...)
	f.equal("first browse", want, f.browse(box, queue, keep))
	f.equal("second browse", want, f.browse(box, queue, keep))
	err := box.Browse(t.Context(), queue, func(msg *message.Message) (bool, error) {
		if msg.UUID != msgs[0].UUID || msg.Metadata.Get("reason") != "data" {
			t.Errorf("the first message is %s with %v", msg.UUID, msg.Metadata)
		}
		return false, errStop
	})
	if !errors.Is(err, errStop) {
		t.Errorf("Browse returned %v, want visit's error", err)
	}
	f.equal("consumed", want, f.take(f.subscribe(t.Context(), queue), n))
}

var errStop = errors.New("stop")

// testBrowseTakes: those that are asked for are gone, the others stay in their
// order, and what comes in meanwhile is not visited.
func testBrowseTakes(t *testing.T, f *fixture) {
	box := f.letterbox()
	const n = 300
	queue := f.name("letters")
	f.bind(queue, queue)
	msgs, all := numbered(n)
	f.publish(queue, msgs...)
	even := func(body string) bool { i, _ := strconv.Atoi(body); return i%2 == 0 }
	var visited []string
	err := box.Browse(t.Context(), queue, func(msg *message.Message) (bool, error) {
		visited = append(visited, string(msg.Payload))
		if len(visited) == 1 {
			f.publish(queue, newMessage("later"))
		}
		return even(string(msg.Payload)), nil
	})
	if err != nil {
		t.Fatalf("Browse: %v", err)
	}
	f.equal("visited", all, visited)
	left := append(slices.DeleteFunc(slices.Clone(all), even), "later")
	f.equal("left", left, f.browse(box, queue, keep))
	failed := 0
	err = box.Browse(t.Context(), queue, func(*message.Message) (bool, error) {
		if failed++; failed == 2 {
			return true, errStop
		}
		return true, nil
	})
	if !errors.Is(err, errStop) {
		t.Errorf("Browse returned %v, want visit's error", err)
	}
	f.equal("left after an error at the second", left[1:], f.browse(box, queue, keep))
}

// testInspect: the numbers of messages and consumers, and no queue made by asking.
func testInspect(t *testing.T, f *fixture) {
	box := f.letterbox()
	queue := f.name("letters")
	for range 2 {
		_, _, err := box.Inspect(t.Context(), queue)
		f.noQueue("Inspect", err)
		f.noQueue("Browse", box.Browse(t.Context(), queue, func(*message.Message) (bool, error) { return true, nil }))
	}
	f.bind(queue, queue)
	msgs, _ := numbered(3)
	f.publish(queue, msgs...)
	f.holds(box, queue, 3, 0)
	f.browse(box, queue, func(string) bool { return true })
	f.subscribe(t.Context(), queue)
	f.holds(box, queue, 0, 1)
}

// holds waits for these numbers: brokers notice what is new within moments.
func (f *fixture) holds(box Letterbox, queue string, messages, consumers int) {
	f.t.Helper()
	for deadline := time.After(patience); ; {
		m, c, err := box.Inspect(f.t.Context(), queue)
		if m == messages && c == consumers && err == nil {
			return
		}
		select {
		case <-deadline:
			f.t.Fatalf("Inspect: %d messages, %d consumers, %v; want %d and %d", m, c, err, messages, consumers)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (f *fixture) noQueue(what string, err error) {
	f.t.Helper()
	var none interface {
		error
		NoQueue() bool
	}
	if !errors.As(err, &none) || !none.NoQueue() {
		f.t.Errorf("%s of a queue that does not exist: %v, want an error with NoQueue", what, err)
	}
}
