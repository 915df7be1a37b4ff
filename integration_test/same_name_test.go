package integration_test

import "testing"

// Two replica services may keep tables of one name in two schemas of a database.
// A transaction of the one that hangs does not concern the other.
func TestTablesOfOneNameInTwoSchemas(t *testing.T) {
	t.Parallel()
	hanging, other := newRig(t, account()), newRig(t, account())
	for _, r := range []*rig{hanging, other} {
		r.startRelay(t)
		r.startConsumer(t)
	}
	unlock := hanging.lockReplica(t)
	hanging.createMany(t, 1)
	hanging.awaitWaiting(t)
	other.create(t)
	other.remove(t)
	unlock()
	hanging.settled(t)
	other.settled(t)
}
