package rabbitmq

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

func TestUnreachableServerAtOpen(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // nobody listens there now
	_, err = Open(t.Context(), "amqp://user:secret@"+l.Addr().String()+"/", Config{})
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) || strings.Contains(err.Error(), "secret") {
		t.Errorf("have error %v, want one with the address and without the password", err)
	}
}

func TestSilentServerAtOpen(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	start := time.Now()
	if _, err = Open(t.Context(), "amqp://"+l.Addr().String(), Config{DialTimeout: 200 * time.Millisecond}); err == nil {
		t.Error("want an error")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err = Open(ctx, "amqp://"+l.Addr().String(), Config{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("have error %v, want %v", err, context.DeadlineExceeded)
	}
	if took := time.Since(start); took >= DefaultTimeout {
		t.Errorf("took %v, want two timeouts of 200 ms to hold and not the default", took)
	}
}

// TestNothingConfirmedIsLost cuts the connections again and again while messages are published and
// consumed; what fails is sent again, as the relay does.
func TestNothingConfirmedIsLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, url := r.proxied()
	b, queue := r.openAt(url, Config{Window: 64}), r.queue()
	r.bind(b, queue, "account")
	messages := r.subscribe(b, queue)

	const n = 4000
	var mu sync.Mutex
	seen := map[string]int{}
	go func() {
		for msg := range messages {
			mu.Lock()
			seen[string(msg.Payload)]++
			mu.Unlock()
			msg.Ack()
		}
	}()
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}
	topics, msgs := series("account", n)
	outages := 0
	for call := 0; len(msgs) > 0; call++ {
		size := min(200, len(msgs))
		wait := b.PublishAsync(t.Context(), topics[:size], msgs[:size])
		if call%3 == 0 {
			<-time.After(rand.N(3 * time.Millisecond)) // cut at any point: nothing, a part, or all is confirmed
			proxy.cut()
		}
		var failed []*message.Message
		for i, err := range wait(t.Context()) {
			if err != nil {
				if !outage(err) {
					t.Fatalf("have error %v, want an outage", err)
				}
				failed = append(failed, msgs[i])
				outages++
			}
		}
		msgs = append(failed, msgs[size:]...)
	}
	eventually(t, "all messages received", func() bool { return count() == n })
	if outages == 0 {
		t.Error("no message was under way when the connection was cut; the test proved nothing")
	}
	eventually(t, "the queue empty and everything acked", func() bool {
		q, err := r.ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		return err == nil && q.Messages == 0
	})
}

func TestSubscriberRecovers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, url := r.proxied()
	log := &lines{}
	consumer, queue := r.openAt(url, Config{Logger: log.logger()}), r.queue()
	r.bind(consumer, queue, "account")
	messages := r.subscribe(consumer, queue)
	publisher := r.open(Config{})
	topics, msgs := series("account", 3)
	if errs := publisher.PublishAsync(t.Context(), topics, msgs)(t.Context()); errs != nil {
		t.Fatal(errs)
	}
	first, second := r.next(messages), r.next(messages)
	proxy.setRefuse(true)
	proxy.cut()
	second.Ack() // its channel is gone: no effect, no harm
	eventually(t, "the loss logged", func() bool { return log.count("connection lost") == 2 })
	<-time.After(300 * time.Millisecond) // several attempts
	proxy.setRefuse(false)

	if diff := cmp.Diff([]string{"0", "1", "2"}, r.receive(messages, 3)); diff != "" {
		t.Errorf("redelivered (-want +have):\n%s", diff)
	}
	first.Ack()
	topics, msgs = series("account", 5)
	if errs := publisher.PublishAsync(t.Context(), topics, msgs)(t.Context()); errs != nil {
		t.Fatal(errs)
	}
	if diff := cmp.Diff(numbers(5), r.receive(messages, 5)); diff != "" {
		t.Errorf("afterwards (-want +have):\n%s", diff)
	}
	eventually(t, "both connections back", func() bool { return log.count("connected again") == 2 })
	if lost := log.count("connection lost"); lost != 2 {
		t.Errorf("the loss of two connections was logged %d times, want once each", lost)
	}
}

// TestAcksOfALostChannel come when the same tags mean other messages.
func TestAcksOfALostChannel(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, url := r.proxied()
	b, queue := r.openAt(url, Config{}), r.queue()
	r.bind(b, queue, "account")
	messages := r.subscribe(b, queue)
	topics, msgs := series("account", 4)
	if errs := b.PublishAsync(t.Context(), topics, msgs)(t.Context()); errs != nil {
		t.Fatal(errs)
	}
	old := []*message.Message{r.next(messages), r.next(messages), r.next(messages)}
	proxy.cut()
	first := r.next(messages)
	for string(first.Payload) != "0" { // one more may have been on its way
		first = r.next(messages)
	}
	r.next(messages)
	old[0].Ack()
	old[1].Ack()
	old[2].Nack()
	for _, msg := range old {
		<-msg.Context().Done()
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	have := r.payloads(queue)
	slices.Sort(have)
	if diff := cmp.Diff(numbers(4), have); diff != "" {
		t.Errorf("left in the queue (-want +have):\n%s", diff)
	}
}

// TestAwaySince: a Broker knows since when it has had no connection to receive by.
func TestAwaySince(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, url := r.proxied()
	b, queue := r.openAt(url, Config{}), r.queue()
	if since := b.AwaySince(); !since.IsZero() {
		t.Errorf("before anything is received: away since %v, want never", since)
	}
	r.bind(b, queue, "account")
	r.subscribe(b, queue)
	eventually(t, "connected", func() bool { return b.AwaySince().IsZero() })
	began := time.Now()
	proxy.setRefuse(true)
	proxy.cut()
	eventually(t, "away", func() bool { return !b.AwaySince().IsZero() })
	since := b.AwaySince()
	eventually(t, "it has dialled again in vain", func() bool { return time.Since(since) > time.Second })
	if have := b.AwaySince(); since.Before(began) || !have.Equal(since) {
		t.Errorf("away since %v and then %v, want the moment of the loss, after %v", since, have, began)
	}
	proxy.setRefuse(false)
	eventually(t, "connected again", func() bool { return b.AwaySince().IsZero() })
}
