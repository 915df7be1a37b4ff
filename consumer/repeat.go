package consumer

import (
	"context"
	"errors"
	"fmt"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// maxLosses is how often a handler may lose a database that is there before its
// event pays for it. Some drivers give up a connection that is used wrongly, which
// looks like an outage and would never end.
const maxLosses = 3

// repeat calls an event's handler until that has worked or failed. ok is false
// when ctx, or the run's time, ended before. An error is the event's.
func (r *runner) repeat(ctx context.Context, in *incoming) (v verdict, ok bool, err error) {
	outage := pause{runner: r, what: "database"}
	defer outage.leave()
	for conflicts, losses := 0, 0; ; {
		if err := in.expired(r.cfg.Now()); err != nil { // it may have waited long
			return v, true, err
		}
		v, err := r.inbox.apply(r.work, in) //nolint:contextcheck // the work outlives ctx by the drain: see runner.work
		if failed := (*failedAttempt)(nil); errors.As(err, &failed) {
			outage.over()
			return v, true, failed.err
		}
		if err == nil {
			outage.over()
			r.settledOne(v, in)
			return v, true, nil
		}
		if r.work.Err() != nil {
			return v, false, nil // the run is over, that is not the event's fault
		}
		if dialect.Classify(err) == dialect.Conflict {
			if conflicts++; conflicts > conflictAttempts {
				return v, true, fmt.Errorf("consumer: %s: no end of conflicts with other transactions: %w", in, err)
			}
			if !sleep(r.work, conflictBackoff(conflicts)) { //nolint:contextcheck // the work outlives ctx by the drain: see runner.work
				return v, false, nil
			}
			continue
		}
		if lost := (*lostError)(nil); errors.As(err, &lost) && r.inbox.reachable(r.work) { //nolint:contextcheck // as above
			if losses++; losses > maxLosses {
				outage.over()
				return v, true, fmt.Errorf("%w (the database is there: are rows left open while other statements are sent?)", err)
			}
		}
		if !outage.wait(ctx, err) {
			return v, false, nil
		}
	}
}

// settledOne counts an event whose handler's work is done.
func (r *runner) settledOne(v verdict, in *incoming) {
	now := r.cfg.Now()
	r.stats.handled(v, in, now)
	if v.downgrade {
		r.log.Warn("a SYNC lowered revisions", "rows", 1)
	}
	if r.cfg.Observe != nil {
		r.cfg.Observe(in.ev.CQRSID, now.Sub(in.Updated))
	}
}

// handles reports whether an event is for a handler.
func (in *incoming) handles() bool { return in.to.entity.handler != nil }

// direct reports whether a SYNC was sent to this queue alone.
func (in *incoming) direct(queue string) bool {
	return in.msg.Metadata.Get(event.HeaderQueue) == queue ||
		in.msg.Metadata.Get(event.MetadataTopic) == event.DirectTopic(queue, in.ev.CQRSID)
}
