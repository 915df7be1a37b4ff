package integration_test

import (
	"syscall"
	"testing"
)

// Of three nodes that are a cluster one is killed, and later all are restarted, one after the other,
// under two masters with a replica each: one has queues that the nodes replicate (quorum), the other
// such that live on one node alone (classic). Replicated queues go on without any node; the others
// while their node is there, and their relay waits for it and loses nothing.
func TestRabbitMQCluster(t *testing.T) {
	t.Parallel()
	cluster := newNodes(t)
	const services, queues = 0, 1 // where relays and consumers connect first, and where the queues are made
	quorum := newClusterRig(t, cluster, "quorum", queues, services)
	classic := newClusterRig(t, cluster, "classic", queues, services)
	progress := func() {
		t.Helper()
		quorum.progress(t)
		classic.progress(t)
	}
	progress()
	cluster[services].stop(syscall.SIGKILL)
	progress()
	cluster[services].start(t)

	homes := cluster.homes(t, cluster[queues])
	home, leader := homes[classic.queue], homes[quorum.queue]
	if home != cluster[queues] || leader == nil {
		t.Fatalf("the queues are on %v, want the classic one on %s", homes, cluster[queues].name)
	}
	if leader != home {
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
	quorum.settled(t)
	classic.settled(t)
	spared(t, quorum.re, quorum.c)
	// A node that is away for long costs attempts.
	if s, c := classic.re.Stats(), classic.c.Stats(); s.Dropped+s.Dead+c.Retried+c.Dead > 0 {
		t.Errorf("relay %+v, consumer %+v, want nothing dropped, dead or retried", s, c)
	}
}
