package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const flagMetrics = "metrics-url"

// processStatus is what only a running relay or consumer knows of itself. What it does
// not tell is nil.
type processStatus struct {
	URL string `json:"url"`
	// LastPublish is when the broker last confirmed a message to a relay.
	LastPublish *time.Time `json:"last_publish,omitempty"`
	// Lag is the time from commit to apply of a consumer's last message.
	Lag    *float64 `json:"lag_seconds,omitempty"`
	Parked *int64   `json:"parked,omitempty"`
	// ParkedSince is when the row of the oldest parked message was changed in the
	// master; nil when none is parked.
	ParkedSince *time.Time `json:"parked_since,omitempty"`
	Stuck       *int64     `json:"stuck,omitempty"`
}

// checkMetrics checks the flag's URLs, which may hold passwords.
func checkMetrics(urls []string) error {
	var faults []error
	for _, raw := range urls {
		if _, err := parseWebURL(raw); err != nil {
			faults = append(faults, misusef("--%s: use http://host:port, where run or consume serves --%s", flagMetrics, flagHTTP))
		}
	}
	return errors.Join(faults...)
}

// askProcess reads the metrics that a relay or a consumer serves with --http.
func askProcess(ctx context.Context, raw string) (processStatus, error) {
	u, err := parseWebURL(raw)
	if err != nil {
		return processStatus{}, err
	}
	s := processStatus{URL: shown(u)}
	series, err := readMetrics(ctx, u)
	if err != nil {
		return s, fmt.Errorf("--%s %s: %w", flagMetrics, s.URL, err)
	}
	s.LastPublish = instant(series, "lockstep_relay_last_confirmed_timestamp_seconds")
	s.ParkedSince = instant(series, "lockstep_consumer_parked_oldest_timestamp_seconds")
	if lag, ok := series["lockstep_consumer_last_lag_seconds"]; ok {
		s.Lag = &lag
	}
	s.Parked, s.Stuck = count(series, "lockstep_consumer_parked"), count(series, "lockstep_consumer_stuck")
	if _, relays := series["lockstep_relay_pending"]; !relays && s.Lag == nil {
		return s, fmt.Errorf("--%s %s: neither a relay nor a consumer answers there", flagMetrics, s.URL)
	}
	return s, nil
}

func count(series map[string]float64, name string) *int64 {
	value, ok := series[name]
	if !ok {
		return nil
	}
	n := int64(value)
	return &n
}

// instant is a time among the series; nil when it is not there, or has not come.
func instant(series map[string]float64, name string) *time.Time {
	seconds, ok := series[name]
	if !ok || seconds <= 0 {
		return nil
	}
	at := time.UnixMilli(int64(math.Round(seconds * 1000))).UTC()
	return &at
}

// maxMetrics bounds what is read of an answer, in bytes.
const maxMetrics = 16 << 20

// readMetrics returns the series without labels.
func readMetrics(ctx context.Context, at *url.URL) (map[string]float64, error) {
	if strings.Trim(at.Path, "/") == "" {
		at = at.JoinPath("metrics")
	}
	series := map[string]float64{}
	return series, get(ctx, at.String(), at.User, func(answer io.Reader) error {
		lines := bufio.NewScanner(io.LimitReader(answer, maxMetrics))
		for lines.Scan() {
			name, text, _ := strings.Cut(lines.Text(), " ")
			if value, err := strconv.ParseFloat(text, 64); err == nil && !strings.HasPrefix(name, "#") {
				series[name] = value
			}
		}
		return lines.Err()
	})
}

func (p processStatus) print(out io.Writer, now time.Time) {
	if p.Lag != nil {
		oldest := ""
		if p.ParkedSince != nil {
			oldest = fmt.Sprintf(", the oldest from %v ago", seconds(max(now.Sub(*p.ParkedSince), 0).Seconds()))
		}
		fmt.Fprintf(out, "consumer %s: last lag %v; %d parked%s; %d stuck\n", p.URL, seconds(*p.Lag), *p.Parked, oldest, *p.Stuck)
		return
	}
	last := "nothing published yet"
	if p.LastPublish != nil {
		last = fmt.Sprintf("last publish %v ago", seconds(max(now.Sub(*p.LastPublish), 0).Seconds()))
	}
	fmt.Fprintf(out, "relay    %s: %s\n", p.URL, last)
}
