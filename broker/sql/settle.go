package sql

import (
	"context"
	"time"

	"github.com/lib/pq"
)

// maxSettled is how many messages one statement deletes or gives back.
const maxSettled = 1000

// settle deletes the messages that were acknowledged and gives the others back, as many at a time as have
// come meanwhile, until all are settled. While the database is away it tries again, until the Broker is
// closed.
func (sub *subscription) settle(ctx context.Context) {
	for first := range sub.settled {
		acked, nacked := sub.gather(first)
		for backoff := 50 * time.Millisecond; ; backoff = min(2*backoff, maxBackoff) {
			err := sub.write(ctx, acked, nacked)
			if err == nil {
				break
			}
			if sub.b.isClosing() {
				sub.b.log.Warn("messages could not be settled; they come again",
					"queue", sub.queue, "acknowledged", len(acked), "given back", len(nacked), "error", err)
				break
			}
			timer := time.NewTimer(backoff)
			select {
			case <-timer.C:
			case <-sub.b.closing:
			}
			timer.Stop()
		}
		sub.mu.Lock()
		sub.held -= len(acked) + len(nacked)
		sub.mu.Unlock()
		signal(sub.freed)
		if len(nacked) > 0 {
			sub.b.stir()
		}
	}
}

// gather returns the outcomes that are there.
func (sub *subscription) gather(first outcome) (acked, nacked []int64) {
	o, ok := first, true
	for ok {
		if o.acked {
			acked = append(acked, o.offset)
		} else {
			nacked = append(nacked, o.offset)
		}
		if len(acked)+len(nacked) == maxSettled {
			return acked, nacked
		}
		select {
		case o, ok = <-sub.settled:
		default:
			ok = false
		}
	}
	return acked, nacked
}

func (sub *subscription) write(ctx context.Context, acked, nacked []int64) error {
	if len(acked) > 0 {
		if _, err := sub.b.exec(ctx, sub.b.sql.remove, pq.Array(acked)); err != nil {
			return err
		}
	}
	if len(nacked) > 0 {
		if _, err := sub.b.exec(ctx, sub.b.sql.putBack, pq.Array(nacked), sub.holder); err != nil {
			return err
		}
	}
	return nil
}
