package rabbitmq

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// With a host that is away the next one is taken; one that is away for good costs nothing more.
func TestFailover(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	url := strings.Replace(r.url, "@", "@127.0.0.1:1,", 1)
	log := &lines{}
	b := r.openAt(url, Config{Logger: log.logger()})
	queue := r.queue()
	r.bind(b, queue, "account")
	r.bind(b, r.queue(), "account")
	if n := log.count("a classic queue lives on one node"); n != 1 {
		t.Errorf("it was said %d times that a classic queue in a cluster lives on one node, want once", n)
	}
	if err := b.Publish("account", message.NewMessage("1", []byte("x"))); err != nil {
		t.Errorf("Publish through the second host: %v", err)
	}
	if _, err := Open(t.Context(), "amqp://u:secret@127.0.0.1:1,127.0.0.1:2/", Config{}); err == nil ||
		!strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "127.0.0.1:2") || strings.Contains(err.Error(), "secret") {
		t.Errorf("with no host there: have %v, want both named and no password", err)
	}
}

// TestFailoverUnderLoad: two hosts of a cluster go away in turn while messages flow, and what was under
// way is sent again, as the relay does. Nothing is lost.
func TestFailoverUnderLoad(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, url := r.proxied()
	second, _ := r.proxied()
	addr := first.listener.Addr().String()
	url = strings.Replace(url, addr, addr+","+second.listener.Addr().String(), 1)
	b, queue := r.openAt(url, Config{}), r.queue()
	r.bind(b, queue, "account")
	messages := r.subscribe(b, queue)
	var mu sync.Mutex
	seen := map[string]bool{}
	go func() {
		for msg := range messages {
			mu.Lock()
			seen[string(msg.Payload)] = true
			mu.Unlock()
			msg.Ack()
		}
	}()
	received := func(what string, n int) {
		t.Helper()
		eventually(t, what, func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(seen) == n
		})
	}
	published := 0
	publish := func(what string) {
		t.Helper()
		for range 300 {
			msg := newMessage(fmt.Sprint(published))
			eventually(t, what, func() bool { return b.Publish("account", msg) == nil })
			published++
		}
		received(what, published)
	}
	publish("through the first host")
	hosts := []*proxy{first, second}
	for i := range 4 { // there and back, twice
		down, up := hosts[i%2], hosts[1-i%2]
		what := fmt.Sprintf("without host %d", i%2+1)
		down.setRefuse(true)
		down.cut()
		publish(what)
		if down.connections() > 0 || up.connections() == 0 {
			t.Errorf("%s: %d connections lead to it and %d to the other", what, down.connections(), up.connections())
		}
		down.setRefuse(false)
	}
}

// TestSilentConnection: a connection on which nothing comes any more, and that nobody ends, is given up
// after about two heartbeats, also by a subscriber, who sends nothing that could go unanswered.
func TestSilentConnection(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	proxy, url := r.proxied()
	log := &lines{}
	b, queue := r.openAt(url+"?heartbeat=3", Config{Logger: log.logger()}), r.queue()
	r.bind(b, queue, "account")
	messages := r.subscribe(b, queue)
	if err := b.Publish("account", newMessage("before")); err != nil {
		t.Fatal(err)
	}
	r.receive(messages, 1)
	proxy.freeze()
	start := time.Now()
	direct := r.open(Config{})
	if err := direct.Publish("account", newMessage("after")); err != nil {
		t.Fatal(err)
	}
	for r.receive(messages, 1)[0] != "after" { // the acknowledgement of the first may be lost
	}
	if took := time.Since(start); took < 500*time.Millisecond || took > silence { // the default's
		t.Errorf("consuming went on after %v, want it after about two heartbeats of three seconds", took)
	}
	eventually(t, "both connections given up and made again", func() bool {
		return log.count("connection lost") >= 2 && log.count("connected again") >= 2
	})
	if took := time.Since(start); took > silence {
		t.Errorf("both connections were back after %v", took)
	}
}
