package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/outbox"
)

// nodes are a cluster of RabbitMQ's of the test's own.
type nodes []*node

// newNodes starts three, which form a cluster by themselves.
func newNodes(t *testing.T) nodes {
	t.Helper()
	const many = 3
	conf := "cluster_formation.peer_discovery_backend = classic_config\n" +
		"raft.wal_max_size_bytes = 16777216\n" // of a log that is kept in memory, too
	for i := range many {
		conf += fmt.Sprintf("cluster_formation.classic_config.nodes.%d = lockstep-test-%d@localhost\n", i+1, i)
	}
	dir, names := scratch(t, nil), startNames(t)
	var all nodes
	for i := range many {
		n := makeNode(t, fmt.Sprintf("lockstep-test-%d", i), dir, names, conf)
		t.Cleanup(func() { n.end(t) })
		all = append(all, n)
	}
	all[0].start(t) // the others join it
	for _, n := range all[1:] {
		n.launch(t)
	}
	for _, n := range all[1:] {
		n.await(t)
	}
	return all
}

// url names all nodes, one of them first: it is tried first.
func (all nodes) url(first int) string {
	var addresses []string
	for i := range all {
		addresses = append(addresses, all[(first+i)%len(all)].address)
	}
	return "amqp://guest:guest@" + strings.Join(addresses, ",") + "/"
}

// homes returns the nodes that queues live on, or the leaders of their replicas are on.
// The one that is asked must have been up for a while: a node takes connections a second
// before it answers that.
func (all nodes) homes(t *testing.T, asked *node) map[string]*node {
	t.Helper()
	homes := map[string]*node{}
	for line := range strings.Lines(asked.ctl(t, "list_queues", "--no-table-headers", "name", "pid")) {
		queue, pid, _ := strings.Cut(strings.TrimSpace(line), "\t")
		i := slices.IndexFunc(all, func(n *node) bool { return strings.HasPrefix(pid, "<"+n.name+".") })
		if i < 0 {
			t.Fatalf("rabbitmqctl does not tell where a queue is: %q", line)
		}
		homes[queue] = all[i]
	}
	return homes
}

// clusterRig is a rig on PostgreSQL and a cluster, and what runs on it.
type clusterRig struct {
	*rig
	re *relayInside
	c  *consumerInside
	w  *writers
}

// newClusterRig starts relay, consumer and writers. It makes queues of a type by one
// node; the services connect to another first.
func newClusterRig(t *testing.T, cluster nodes, queueType string, queues, services int) clusterRig {
	t.Helper()
	r := &rig{dialect: outbox.Postgres, brokerURL: cluster.url(queues)}
	r.master, r.masterDSN = testdb.Postgres(t)
	r.replica, r.replicaDSN = testdb.Postgres(t)
	r.prepare(t, []entity{account()})
	r.log = r.log.With("queues", queueType)
	r.useRabbitMQ(t)
	r.brokerURL += "&queue_type=" + queueType
	r.bind(t)
	r.pace = 40 * time.Millisecond // nodes take long to start, and all is repeated at the end
	url := strings.Replace(r.brokerURL, cluster.url(queues), cluster.url(services), 1)
	return clusterRig{r, r.startRelay(t, url), r.startConsumer(t, url), r.startWriters(t)}
}

// settled is [rig.settled] when the writers have ended.
func (r clusterRig) settled(t *testing.T) {
	t.Helper()
	r.w.stop()
	t.Logf("%d messages were published twice", repeats(r.rig.settled(t)))
}
