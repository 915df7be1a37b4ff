package cli

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/lockstep-go/lockstep/relay"
)

// lettersPage is how many messages are read or changed at once.
const lettersPage = 200

// page reads the next messages with an id above after, in id order; none at the end.
type page func(ctx context.Context, after int64) ([]letter, error)

// outboxTable is a table of messages that a relay has trouble with.
type outboxTable struct {
	page     page
	progress func(total int64) *progress
}

// outboxMessageJSON is a message of such a table as it is printed in JSON.
type outboxMessageJSON struct {
	ID       int64           `json:"id"`
	Topic    string          `json:"topic"`
	Entity   string          `json:"cqrs_id"`
	Key      string          `json:"key"`
	Attempts int             `json:"attempts"`
	Error    string          `json:"error"`
	Created  time.Time       `json:"created"`
	RetryAt  *time.Time      `json:"retry_at,omitempty"` // of a failing one
	Died     *time.Time      `json:"died,omitempty"`     // of a dead one
	Metadata json.RawMessage `json:"metadata"`
	Payload  string          `json:"payload,omitempty"`
}

// lettersOf turns what an Admin lists into letters.
func lettersOf[T relay.DeadLetter | relay.Failure](read func(T) letter) func(list []T, err error) ([]letter, error) {
	return func(list []T, err error) ([]letter, error) {
		letters := make([]letter, len(list))
		for i, one := range list {
			letters[i] = read(one)
		}
		return letters, err
	}
}

// each hands on all messages in id order.
func (o outboxTable) each(ctx context.Context, fn func(letter) error) error {
	for after := int64(0); ; {
		found, err := o.page(ctx, after)
		if err != nil || len(found) == 0 {
			return err
		}
		for _, d := range found {
			if err := fn(d); err != nil {
				return err
			}
		}
		if after, err = strconv.ParseInt(found[len(found)-1].id, 10, 64); err != nil {
			return err
		}
	}
}

// ids returns those of the messages that are selected now.
func (o outboxTable) ids(ctx context.Context, selects func(letter) bool) (ids []int64, err error) {
	err = o.each(ctx, func(d letter) error {
		if !selects(d) {
			return nil
		}
		id, err := strconv.ParseInt(d.id, 10, 64)
		ids = append(ids, id)
		return err
	})
	return ids, err
}

// change does something to messages, some at a time, and returns to how many. Their
// ids are collected before, so that one which comes back meanwhile is not met twice.
func (o outboxTable) change(
	ctx context.Context, ids []int64, do func(ctx context.Context, ids ...int64) (int64, error),
) (changed int64, err error) {
	p := o.progress(int64(len(ids)))
	defer p.end()
	for start := 0; start < len(ids); start += lettersPage {
		n, err := do(ctx, ids[start:min(start+lettersPage, len(ids))]...)
		changed += n
		if err != nil {
			return changed, err
		}
		p.report(changed)
	}
	return changed, nil
}

// changeSelected is change for those that are selected now.
func (o outboxTable) changeSelected(
	ctx context.Context, selects func(letter) bool, do func(ctx context.Context, ids ...int64) (int64, error),
) (int64, error) {
	ids, err := o.ids(ctx, selects)
	if err != nil {
		return 0, err
	}
	return o.change(ctx, ids, do)
}

// checkNumbers refuses ids that no table has. lists is the command that prints them.
func (s *selection) checkNumbers(lists string) error {
	for _, id := range s.ids {
		if _, err := strconv.ParseInt(id, 10, 64); err != nil {
			return misusef("%q is not an id: use a number that `%s` prints", hideURLs(id), lists)
		}
	}
	return nil
}
