package integration_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

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

// home returns the node that a queue lives on, or the leader of its replicas.
func (all nodes) home(t *testing.T, queue string) *node {
	t.Helper()
	for line := range strings.Lines(all[0].ctl(t, "list_queues", "--no-table-headers", "name", "pid")) {
		name, pid, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if name != queue {
			continue
		}
		if i := slices.IndexFunc(all, func(n *node) bool { return strings.HasPrefix(pid, "<"+n.name+".") }); i >= 0 {
			return all[i]
		}
	}
	t.Fatalf("the cluster does not tell where queue %s is", queue)
	return nil
}

// newClusterRig returns a rig on PostgreSQL and the cluster, with queues of one type on
// a node.
func newClusterRig(t *testing.T, cluster nodes, queueType string, home int, entities ...entity) *rig {
	t.Helper()
	r := &rig{dialect: outbox.Postgres, brokerURL: cluster.url(home)}
	r.master, r.masterDSN = testdb.Postgres(t)
	r.replica, r.replicaDSN = testdb.Postgres(t)
	r.prepare(t, entities)
	r.log = r.log.With("queues", queueType)
	r.useRabbitMQ(t)
	r.brokerURL += "&queue_type=" + queueType
	r.bind(t)
	return r
}
