package metrics

import (
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/relay"
)

// gathered are the numbers of a collector's series by name; of summaries and histograms
// their counts and sums.
func gathered(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			switch {
			case m.GetCounter() != nil:
				all[name] = m.GetCounter().GetValue()
			case m.GetGauge() != nil:
				all[name] = m.GetGauge().GetValue()
			case m.GetSummary() != nil:
				all[name+" count"], all[name+" sum"] = float64(m.GetSummary().GetSampleCount()), m.GetSummary().GetSampleSum()
			case m.GetHistogram() != nil:
				all[name+" count"], all[name+" sum"] = float64(m.GetHistogram().GetSampleCount()), m.GetHistogram().GetSampleSum()
			}
		}
	}
	return all
}

// wantAllSet keeps the tests below complete: a number that is added to a Stats is to be
// given a series, or to be left out here.
func wantAllSet(t *testing.T, stats any, without ...string) {
	t.Helper()
	left := map[string]bool{}
	for _, name := range without {
		left[name] = true
	}
	for _, field := range reflect.VisibleFields(reflect.TypeOf(stats)) {
		if !left[field.Name] && reflect.ValueOf(stats).FieldByIndex(field.Index).IsZero() {
			t.Errorf("%T.%s is not looked at", stats, field.Name)
		}
	}
}

// Each series shows its own number, in its unit.
func TestRelaySeriesShowTheirNumbers(t *testing.T) {
	t.Parallel()
	s := relay.Stats{
		Published: 1, Collapsed: 2, Dropped: 3, Returned: 4, Refused: 5, Dead: 6, Pauses: 7,
		LastConfirmed: time.UnixMilli(8500), Term: 9, Leases: 10, BatchSize: 11, Blocked: 12,
		Read: relay.Timing{Count: 13, Total: 1500 * time.Millisecond}, Send: relay.Timing{Count: 14, Total: 2500 * time.Millisecond},
		Confirm: relay.Timing{Count: 15, Total: 3500 * time.Millisecond}, Settle: relay.Timing{Count: 16, Total: 4500 * time.Millisecond},
		Outbox: relay.Outbox{Pending: 17, Oldest: 18500 * time.Millisecond, At: time.UnixMilli(19500)},
	}
	wantAllSet(t, s, "Leading", "Idle", "Hindered") // which are for the health alone
	want := map[string]float64{
		"lockstep_relay_published_total": 1, "lockstep_relay_collapsed_total": 2, "lockstep_relay_dropped_total": 3,
		"lockstep_relay_returned_total": 4, "lockstep_relay_failed_total": 5, "lockstep_relay_dead_total": 6, "lockstep_relay_pauses_total": 7,
		"lockstep_relay_last_confirmed_timestamp_seconds": 8.5, "lockstep_relay_term": 9, "lockstep_relay_lease_held": 10,
		"lockstep_relay_batch_size": 11, "lockstep_relay_blocked_keys": 12,
		"lockstep_relay_phase_seconds read count": 13, "lockstep_relay_phase_seconds read sum": 1.5,
		"lockstep_relay_phase_seconds send count": 14, "lockstep_relay_phase_seconds send sum": 2.5,
		"lockstep_relay_phase_seconds confirm count": 15, "lockstep_relay_phase_seconds confirm sum": 3.5,
		"lockstep_relay_phase_seconds settle count": 16, "lockstep_relay_phase_seconds settle sum": 4.5,
		"lockstep_relay_pending": 17, "lockstep_relay_oldest_seconds": 18.5, "lockstep_relay_looked_timestamp_seconds": 19.5,
	}
	if diff := cmp.Diff(want, gathered(t, ofRelay(func() relay.Stats { return s }))); diff != "" {
		t.Errorf("series (-want +have):\n%s", diff)
	}
}

func TestConsumerSeriesShowTheirNumbers(t *testing.T) {
	t.Parallel()
	s := consumer.Stats{
		Received: 1, Applied: 2, Duplicate: 3, Stale: 4, Superseded: 5, Gaps: 6, Downgraded: 7, Ignored: 8, Retried: 9, Dead: 10,
		Purged: 11, Parked: 12, Stuck: 13, Quirks: 14, Batches: 15, Isolated: 16, Late: 17, Panics: 18, Pauses: 19,
		Lag: 20500 * time.Millisecond, BatchSize: 21, ParkedSince: time.UnixMilli(22500),
	}
	wantAllSet(t, s, "Subscribed", "PausedSince") // which are for the health alone
	lag := NewLag()
	lag.Observe("account", 1500*time.Millisecond)
	lag.Observe("account", 500*time.Millisecond)
	lag.Observe("account", -time.Second) // the clocks differ
	want := map[string]float64{
		"lockstep_consumer_received_total": 1, "lockstep_consumer_applied_total": 2, "lockstep_consumer_duplicate_total": 3,
		"lockstep_consumer_stale_total": 4, "lockstep_consumer_superseded_total": 5, "lockstep_consumer_gaps_total": 6,
		"lockstep_consumer_downgraded_total": 7, "lockstep_consumer_ignored_total": 8, "lockstep_consumer_retried_total": 9,
		"lockstep_consumer_dead_total": 10, "lockstep_consumer_purged_total": 11, "lockstep_consumer_parked": 12, "lockstep_consumer_parked_oldest_timestamp_seconds": 22.5, "lockstep_consumer_stuck": 13,
		"lockstep_consumer_quirks_total": 14, "lockstep_consumer_batches_total": 15, "lockstep_consumer_isolated_total": 16,
		"lockstep_consumer_late_total": 17, "lockstep_consumer_panics_total": 18, "lockstep_consumer_pauses_total": 19,
		"lockstep_consumer_last_lag_seconds": 20.5, "lockstep_consumer_batch_size": 21,
		"lockstep_consumer_lag_seconds count": 3, "lockstep_consumer_lag_seconds sum": 2,
	}
	if diff := cmp.Diff(want, gathered(t, ofConsumer(func() consumer.Stats { return s }, lag))); diff != "" {
		t.Errorf("series (-want +have):\n%s", diff)
	}
}
