package metrics

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lockstep-go/lockstep/consumer"
)

// Lag is the histogram of the time from commit to apply. Its Observe fits
// consumer.Config.Observe. The zero value is not usable; see [NewLag].
type Lag struct{ histogram prometheus.Histogram }

// NewLag returns an empty histogram, from 1 ms to about an hour.
func NewLag() *Lag {
	return &Lag{prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "lockstep_consumer_lag_seconds",
		Help:    "Time from the change in the master to its commit here, as good as the two clocks.",
		Buckets: prometheus.ExponentialBuckets(0.001, 4, 12),
	})}
}

// Observe counts one message.
func (l *Lag) Observe(_ string, lag time.Duration) { l.histogram.Observe(max(lag, 0).Seconds()) }

// Consumer is a consumer's series and health. The consumer is not healthy when
// its database or broker has been away for the limit. lag may be nil.
func Consumer(c *consumer.Consumer, lag *Lag, limit time.Duration) Source {
	return Source{
		Collector: ofConsumer(c.Stats, lag),
		healthy:   func(now time.Time) error { return c.Stats().Stalled(now, limit) },
		ready: func(time.Time) error {
			switch s := c.Stats(); {
			case !s.Subscribed:
				return errors.New("consumer: not subscribed yet")
			case !s.PausedSince.IsZero():
				return errors.New("consumer: waiting for the database or the broker")
			}
			return nil
		},
	}
}

func ofConsumer(stats func() consumer.Stats, lag *Lag) prometheus.Collector {
	c := newCollector(stats, consumerSamples)
	if lag != nil {
		c.moreDesc = lag.histogram.Desc()
		c.more = func(_ consumer.Stats, out chan<- prometheus.Metric) { lag.histogram.Collect(out) }
	}
	return c
}

// consumerSamples are the numbers of a consumer.
func consumerSamples(s consumer.Stats) []sample {
	return []sample{
		counter("lockstep_consumer_received_total", "Messages taken from the broker.", s.Received),
		counter("lockstep_consumer_applied_total", "Messages that changed a row or a tombstone.", s.Applied),
		counter("lockstep_consumer_duplicate_total",
			"Messages of a revision that was stored already.", s.Duplicate),
		counter("lockstep_consumer_stale_total", "Messages older than what was stored.", s.Stale),
		counter("lockstep_consumer_superseded_total",
			"Messages that a newer one of the same batch made needless.", s.Superseded),
		counter("lockstep_consumer_gaps_total",
			"Times that revisions were missing below an applied one.", s.Gaps),
		counter("lockstep_consumer_downgraded_total", "SYNCs that lowered a row's revision.", s.Downgraded),
		counter("lockstep_consumer_ignored_total",
			"Messages of entities that are ignored, and SYNCs for all where only direct ones count.", s.Ignored),
		counter("lockstep_consumer_late_total", "Calls of handlers that were not done in time.", s.Late),
		counter("lockstep_consumer_panics_total", "Calls of handlers that panicked.", s.Panics),
		counter("lockstep_consumer_retried_total", "Copies put back for another attempt.", s.Retried),
		counter("lockstep_consumer_dead_total", "Messages moved to the dead-letter queue.", s.Dead),
		counter("lockstep_consumer_quirks_total", "Messages with an oddity that was overlooked.", s.Quirks),
		counter("lockstep_consumer_batches_total", "Committed transactions.", s.Batches),
		counter("lockstep_consumer_isolated_total",
			"Transactions taken apart because a message did not fit.", s.Isolated),
		counter("lockstep_consumer_pauses_total", "Outages of the database and of the broker.", s.Pauses),
		counter("lockstep_consumer_purged_total", "Deleted keys that were forgotten for their age.", s.Purged),
		gauge("lockstep_consumer_parked", "Messages that wait for a row that theirs refers to.", s.Parked),
		gauge("lockstep_consumer_parked_oldest_timestamp_seconds",
			"When the row of the oldest of them was changed in the master; 0 when there is none.", unix(s.ParkedSince)),
		gauge("lockstep_consumer_stuck",
			"Messages held because the broker does not take their copy or dead letter.", s.Stuck),
		gauge("lockstep_consumer_batch_size", "Messages in the last transaction.", s.BatchSize),
		gauge("lockstep_consumer_last_lag_seconds",
			"Time from commit to apply of the last message.", s.Lag.Seconds()),
	}
}
