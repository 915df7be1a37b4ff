package consumer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// parent is a foreign key of a replica's table.
type parent struct {
	dialect.Reference
	slots []int // of its columns
	// to is the replica whose key it refers to, nil where it refers to something
	// else, and key are the places in slots of that key's columns, in their order.
	to  *replica
	key []int
}

// refer notes the foreign keys of the replicas' tables, and reports tables that
// follow two entities under two spellings of their name.
func (c *Consumer) refer(ctx context.Context, replicas map[string]*replica) (faults, err error) {
	byTable := make(map[string]*replica, len(replicas))
	references := make(map[*replica][]dialect.Reference)
	for _, id := range slices.Sorted(maps.Keys(replicas)) {
		r := replicas[id]
		if r.entity.handler != nil {
			continue
		}
		identity, list, err := c.dialect.LoadReferences(ctx, c.db, r.Table)
		if err != nil {
			return nil, fmt.Errorf("consumer: entity %q: %w", id, err)
		}
		if other := byTable[identity]; other != nil {
			faults = errors.Join(faults, fmt.Errorf("consumer: entity %q: table %s follows %q already, as %s: a table follows one entity only",
				id, r.Table, other.entity.id, other.Table))
		}
		byTable[identity], references[r] = r, list
	}
	for r, list := range references {
		for _, reference := range list {
			if over := byTable[reference.Table]; reference.Cascades && over != nil {
				r.goesWith, over.sweeps = append(r.goesWith, over.Table), true
			}
			if slots := r.slotsOf(reference.Columns); slots != nil {
				r.parents = append(r.parents, newParent(reference, slots, byTable[reference.Table]))
			}
		}
	}
	return faults, nil
}

// slotsOf returns the slots of columns, nil when one of them is not mapped.
func (r *replica) slotsOf(columns []string) []int {
	slots := make([]int, len(columns))
	for i, name := range columns {
		for slot := slotKey; slot < r.slots() && slots[i] == 0; slot++ {
			if strings.EqualFold(r.column(slot).Name, name) {
				slots[i] = slot
			}
		}
		if slots[i] == 0 {
			return nil
		}
	}
	return slots
}

// newParent returns a foreign key; to is the replica whose table it refers to, nil
// for any other table.
func newParent(reference dialect.Reference, slots []int, to *replica) parent {
	p := parent{Reference: reference, slots: slots}
	if to == nil || len(to.keySlots()) != len(slots) {
		return p
	}
	var key []int
	for _, slot := range to.keySlots() {
		i := slices.IndexFunc(reference.To, func(name string) bool { return strings.EqualFold(name, to.column(slot).Name) })
		if i < 0 {
			return p
		}
		key = append(key, i)
	}
	p.to, p.key = to, key
	return p
}

// same reports whether two readings of a foreign key say the same.
func (p parent) same(other parent) bool {
	if (p.to == nil) != (other.to == nil) || p.to != nil && (p.to.entity != other.to.entity || p.to.Key != other.to.Key) {
		return false
	}
	return reflect.DeepEqual(p.Reference, other.Reference) && slices.Equal(p.slots, other.slots) && slices.Equal(p.key, other.key)
}

// refersTo returns the foreign keys by which a message's row refers to others. With
// a null in one of its columns a foreign key refers to nothing.
func (in *incoming) refersTo() []parent {
	if in.signal == event.Delete {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(in.to.parents), func(p parent) bool { return !in.has(p.slots) })
}

// has reports whether a message's row has values in all the slots.
func (in *incoming) has(slots []int) bool {
	return !slices.ContainsFunc(slots, func(slot int) bool { return event.IsNull(in.values[slot]) })
}

// row returns the row of a replica that a message's row refers to by the foreign
// key; ok is false where that is not a replica's key.
func (p parent) row(in *incoming) (row foldKey, ok bool) {
	if p.to == nil {
		return foldKey{}, false
	}
	values := make([][]byte, p.to.slots())
	for i, slot := range p.to.keySlots() {
		values[slot] = in.values[p.slots[p.key[i]]]
	}
	return foldKey{p.to.entity, p.to.keyOf(values)}, true
}
