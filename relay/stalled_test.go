package relay_test

import (
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/relay"
)

// The limit counts from the beginning of the term, not from what another relay left undone.
func TestStalledCountsFromTheTermsBeginning(t *testing.T) {
	t.Parallel()
	now := time.Now()
	pending := relay.Outbox{Pending: 3, At: now, Since: now.Add(-time.Hour)}
	for name, c := range map[string]struct {
		stats relay.Stats
		want  bool
	}{
		"nothing known yet":        {relay.Stats{}, false},
		"nothing pending":          {relay.Stats{Term: 1, Outbox: relay.Outbox{At: now}}, false},
		"stands by":                {relay.Stats{Outbox: pending}, false},
		"just took over":           {relay.Stats{Term: 2, Leading: now.Add(-time.Second), Outbox: pending}, false},
		"nothing confirmed":        {relay.Stats{Term: 2, Leading: now.Add(-time.Hour), Outbox: pending}, true},
		"confirmed just now":       {relay.Stats{Term: 2, LastConfirmed: now.Add(-time.Second), Outbox: pending}, false},
		"confirmed long ago":       {relay.Stats{Term: 2, LastConfirmed: now.Add(-2 * time.Minute), Outbox: pending}, true},
		"database long silent":     {relay.Stats{Outbox: relay.Outbox{At: now.Add(-2 * time.Minute)}}, true},
		"no lease to be had":       {relay.Stats{Hindered: now.Add(-2 * time.Minute), Outbox: relay.Outbox{At: now}}, true},
		"hindered just now":        {relay.Stats{Hindered: now.Add(-time.Second), Outbox: relay.Outbox{At: now}}, false},
		"the next look is not due": {relay.Stats{Outbox: relay.Outbox{At: now.Add(-2 * time.Minute), Due: now.Add(-time.Second)}}, false},
		"long due":                 {relay.Stats{Outbox: relay.Outbox{At: now.Add(-4 * time.Minute), Due: now.Add(-2 * time.Minute)}}, true},
		"nothing confirmed since a look long ago": {relay.Stats{Term: 2, Outbox: relay.Outbox{
			Pending: 3, At: now.Add(-100 * time.Second), Due: now.Add(time.Second), Since: now.Add(-100 * time.Second),
		}}, true},
		"confirmed since the look, and idle since": {relay.Stats{Term: 2, LastConfirmed: now.Add(-90 * time.Second), Outbox: relay.Outbox{
			Pending: 3, At: now.Add(-100 * time.Second), Due: now.Add(time.Second), Since: now.Add(-time.Hour),
		}}, false},
	} {
		if err := c.stats.Stalled(now, time.Minute); (err != nil) != c.want {
			t.Errorf("%s: Stalled is %v, want an error: %t", name, err, c.want)
		}
	}
}
