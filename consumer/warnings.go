package consumer

import (
	"context"
	"fmt"
	"maps"
	"slices"
)

// Warnings reports what the registered tables allow that can part a replica from its
// master without any message failing, each with its remedy. It is no fault of
// configuration: [Consumer.Check] does not mention it, and Run logs it when it starts
// and goes on. The error tells that the catalogue could not be read.
func (c *Consumer) Warnings(ctx context.Context) (warnings []error, err error) {
	replicas, _, err := c.load(ctx)
	return warningsOf(replicas), err
}

func warningsOf(replicas map[string]*replica) (warnings []error) {
	for _, id := range slices.Sorted(maps.Keys(replicas)) {
		if r := replicas[id]; r.entity.handler == nil {
			warnings = append(warnings, r.warnings()...)
		}
	}
	return warnings
}

func (r *replica) warnings() (warnings []error) {
	warn := func(format string, args ...any) {
		warnings = append(warnings, fmt.Errorf("consumer: entity %q: table %s: "+format, append([]any{r.entity.id, r.Table}, args...)...))
	}
	slices.Sort(r.goesWith)
	for _, table := range slices.Compact(r.goesWith) {
		warn("the database deletes rows with those of table %s that they refer to (ON DELETE CASCADE). They leave no tombstones, "+
			"and a row whose deletion comes late takes along what refers to the one made anew: "+
			"leave the action out, since the master sends a DELETE for each row", table)
	}
	for _, slot := range r.keySlots() {
		if column := r.column(slot); column.Loose != "" {
			warn("key column %s takes different texts for one key (%s). Their tombstones are apart, so a late message in another spelling "+
				"brings a deleted row back: compare it byte by byte, or let the master spell each key one way", column.Name, column.Loose)
		}
	}
	return warnings
}

// warn logs what Warnings reports.
func (r *runner) warn(replicas map[string]*replica) {
	for _, warning := range warningsOf(replicas) {
		r.log.Warn("the replica may come to differ from its master", logError, warning)
	}
}
