package integration_test

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// Of three nodes that are a cluster one is killed, and later all are restarted, one after the other,
// under two masters with a replica each: one has queues that the nodes replicate (quorum), the other
// such that live on one node alone (classic). Replicated queues go on without any node; the others
// while their node is there, and their relay waits for it without losing or spending anything.
func TestRabbitMQCluster(t *testing.T) {
	t.Parallel()
	cluster := newNodes(t)
	const relays, queues = 0, 1 // where relays and consumers connect first, and where the queues are
	quorum := newClusterRig(t, cluster, "quorum", queues, account())
	classic := newClusterRig(t, cluster, "classic", queues, account())
	type running struct {
		*rig
		re *relayInside
		c  *consumerInside
		w  *writers
	}
	var both []running
	for _, r := range []*rig{quorum, classic} {
		r.pace = 10 * time.Millisecond // it takes long, and all is repeated at the end
		url := strings.Replace(r.brokerURL, cluster.url(queues), cluster.url(relays), 1)
		both = append(both, running{r, r.startRelay(t, url), r.startConsumer(t, url), r.startWriters(t)})
	}
	progress := func() {
		t.Helper()
		for _, r := range both {
			r.progress(t)
		}
	}
	progress()

	cluster[relays].stop(syscall.SIGKILL)
	progress()
	cluster[relays].start(t)

	home := cluster.home(t, classic.queue)
	if home != cluster[queues] {
		t.Errorf("the classic queue is on %s, want it on %s", home.name, cluster[queues].name)
	}
	if leader := cluster.home(t, quorum.queue); leader != home {
		leader.stop(syscall.SIGKILL)
		quorum.progress(t)
		leader.start(t)
	}
	home.stop(syscall.SIGKILL)
	quorum.progress(t)
	classic.outboxFills(t)
	home.start(t)
	progress()

	for _, n := range cluster {
		n.stop(syscall.SIGTERM)
		quorum.progress(t)
		n.start(t)
		progress()
	}
	for _, r := range both {
		r.w.stop()
		r.caughtUp(t)
	}
	spared(t, both[0].re, both[0].c)
	// A node that is away for long costs attempts.
	if s, c := both[1].re.Stats(), both[1].c.Stats(); s.Dropped+s.Dead+c.Retried+c.Dead > 0 {
		t.Errorf("relay %+v, consumer %+v, want nothing dropped, dead or retried", s, c)
	}
	for _, r := range both {
		t.Logf("%d messages were published twice", repeats(r.settled(t)))
	}
}
