package rabbitmq

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

func TestTopologyIsDeclaredAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, url := r.proxied()
	b, queue := r.openAt(url, Config{}), r.queue()
	r.bind(b, queue, "account", "cqrs."+queue+".account")
	if err := b.Publish("account", newMessage("opens the channel")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ch.QueueDelete(queue, false, false, false); err != nil {
		t.Fatal(err)
	}
	if err := r.ch.ExchangeDelete(r.exchange, false, false); err != nil {
		t.Fatal(err)
	}
	proxy.cut()
	topics := []string{"account", "cqrs." + queue + ".account"}
	eventually(t, "both topics routable", func() bool {
		_, msgs := series("", 2)
		return b.PublishAsync(t.Context(), topics, msgs)(t.Context()) == nil
	})
}

// TestDeletedExchange is an outage until the exchange is declared again, not the messages' fault.
func TestDeletedExchange(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, _ := r.bound(Config{}, "account")
	if err := b.Publish("account", newMessage("opens the channel")); err != nil {
		t.Fatal(err)
	}
	if err := r.ch.ExchangeDelete(r.exchange, false, false); err != nil {
		t.Fatal(err)
	}
	topics, msgs := series("account", 10)
	for i, err := range b.PublishAsync(t.Context(), topics, msgs)(t.Context()) {
		if !outage(err) {
			t.Errorf("message %d: have error %v, want an outage", i, err)
		}
	}
	eventually(t, "publishing again", func() bool {
		return b.PublishAsync(t.Context(), topics, msgs)(t.Context()) == nil
	})
}

func TestDeletedQueue(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	b, queue := r.bound(Config{}, "account")
	messages := r.subscribe(b, queue)
	if err := b.Publish("account", newMessage("0")); err != nil {
		t.Fatal(err)
	}
	r.receive(messages, 1)
	if _, err := r.ch.QueueDelete(queue, false, false, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the queue declared again and bound", func() bool {
		return b.PublishAsync(t.Context(), []string{"account"}, []*message.Message{newMessage("1")})(t.Context()) == nil
	})
	if diff := cmp.Diff([]string{"1"}, r.receive(messages, 1)); diff != "" {
		t.Errorf("consumed (-want +have):\n%s", diff)
	}
}
