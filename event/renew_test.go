package event_test

import (
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/event"
)

func TestRenew(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for name, tt := range map[string]struct {
		expires, want string
		born          time.Time
	}{
		"its own life, whose fraction was cut": {`"2026-01-02T04:00:00+00:00"`, `"2026-03-04T06:06:07+00:00"`, time.Date(2026, 1, 2, 3, 0, 0, 700e6, time.UTC)},
		"not known when it was made":           {`"2026-01-02T04:00:00+00:00"`, `"2026-03-05T05:06:07+00:00"`, time.Time{}},
		"made after its expiry":                {`"2026-01-02T04:00:00+00:00"`, `"2026-03-05T05:06:07+00:00"`, now},
		"never":                                {`null`, `null`, now},
	} {
		body := `{"signal_type":"SAVE","cqrs_id":"a","instance_data":{},"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":`
		e, err := event.Decode([]byte(body + `7,"expires":` + tt.expires + `,"meta":{},"other":[1]}`))
		if err != nil {
			t.Fatal(err)
		}
		e.Renew(now, e.Life(tt.born))
		if have, want := string(e.AppendJSON(nil)), body+`0,"expires":`+tt.want+`,"meta":{},"other":[1]}`; have != want {
			t.Errorf("%s:\nhave %s\nwant %s", name, have, want)
		}
	}
}
