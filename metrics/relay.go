package metrics

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lockstep-go/lockstep/relay"
)

// Relay is a relay's series and health. It needs relay.Config.Look. The relay is
// not healthy when it has messages pending and confirmed none for the limit.
func Relay(r *relay.Relay, limit time.Duration) Source {
	healthy := func(now time.Time) error { return r.Stats().Stalled(now, limit) }
	return Source{Collector: ofRelay(r.Stats), healthy: healthy, ready: func(now time.Time) error {
		if r.Stats().Outbox.At.IsZero() {
			return errors.New("relay: the outbox has not been looked at yet")
		}
		return healthy(now)
	}}
}

func ofRelay(stats func() relay.Stats) prometheus.Collector {
	c := newCollector(stats, relaySamples)
	c.moreDesc = prometheus.NewDesc("lockstep_relay_phase_seconds",
		"Time the steps of a batch took; they run side by side.", []string{"phase"}, nil)
	c.more = func(s relay.Stats, out chan<- prometheus.Metric) {
		for _, p := range []struct {
			name string
			took relay.Timing
		}{{"read", s.Read}, {"send", s.Send}, {"confirm", s.Confirm}, {"settle", s.Settle}} {
			out <- prometheus.MustNewConstSummary(c.moreDesc, uint64(p.took.Count), p.took.Total.Seconds(), nil, p.name) //nolint:gosec // counts are not negative
		}
	}
	return c
}

// relaySamples are the numbers of a relay.
func relaySamples(s relay.Stats) []sample {
	return []sample{
		gauge("lockstep_relay_pending", "Messages in the outbox, counted up to a million.", s.Outbox.Pending),
		gauge("lockstep_relay_oldest_seconds",
			"Age of the message that was put into the outbox first; 0 when it is empty.", s.Outbox.Oldest.Seconds()),
		gauge("lockstep_relay_looked_timestamp_seconds",
			"When the outbox was last looked at; 0 for never.", unix(s.Outbox.At)),
		gauge("lockstep_relay_last_confirmed_timestamp_seconds",
			"When the broker last confirmed a message of this relay; 0 for never.", unix(s.LastConfirmed)),
		counter("lockstep_relay_published_total", "Messages confirmed by the broker and deleted.", s.Published),
		counter("lockstep_relay_collapsed_total", "Events deleted with a newer one of their key.", s.Collapsed),
		counter("lockstep_relay_dropped_total", "Messages that no queue was bound to, and deleted.", s.Dropped),
		counter("lockstep_relay_returned_total",
			"Times that no queue was bound to a message's topic.", s.Returned),
		counter("lockstep_relay_failed_total", "Tries that the broker refused.", s.Refused),
		counter("lockstep_relay_dead_total", "Messages moved to outbox_dead.", s.Dead),
		counter("lockstep_relay_pauses_total", "Outages of the broker or the database.", s.Pauses),
		gauge("lockstep_relay_lease_held",
			"Leases that this relay holds; more than one if there are shards.", s.Leases),
		gauge("lockstep_relay_term",
			"Number of the newest term while this relay holds a lease, else 0.", s.Term),
		gauge("lockstep_relay_blocked_keys", "Keys that wait for a message that was refused.", s.Blocked),
		gauge("lockstep_relay_batch_size", "Messages in the last batch.", s.BatchSize),
	}
}
