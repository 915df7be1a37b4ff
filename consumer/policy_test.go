package consumer

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// TestPolicy: number, special values, functions, and what an error itself asks for.
func TestPolicy(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	odd := policy{retryIf: func(attempt int, err error) bool { return attempt < 3 && errors.Is(err, boom) }}
	growing := policy{maxRetries: RetryForever, retryDelayFor: func(attempt int, _ error) time.Duration { return time.Duration(attempt) * time.Minute }}
	broken := policy{retryIf: func(int, error) bool { panic("in a policy") }}
	tests := []struct {
		name    string
		policy  policy
		attempt int
		err     error
		want    fate
	}{
		{"first", policy{}, 1, boom, fate{delay: 2 * time.Second}},
		{"thirtieth", policy{}, 30, boom, fate{delay: 2 * time.Second}},
		{"thirty-first", policy{}, 31, boom, fate{reason: "retries"}},
		{"none", policy{maxRetries: NoRetries}, 1, boom, fate{reason: "retries"}},
		{"for ever", policy{maxRetries: RetryForever, retryDelay: time.Minute}, 10_000, boom, fate{delay: time.Minute}},
		{"permanent", policy{maxRetries: RetryForever}, 1, fmt.Errorf("wrapped: %w", Permanent(boom)), fate{reason: "permanent"}},
		{"at a time", policy{}, 1, RetryAfter(time.Hour, boom), fate{delay: time.Hour}},
		{"at once", policy{}, 1, RetryAfter(-1, boom), fate{}},
		{"far too late", policy{}, 1, RetryAfter(10_000*time.Hour, boom), fate{delay: 30 * 24 * time.Hour}},
		{"at a time, too often", policy{maxRetries: 3}, 4, RetryAfter(time.Hour, boom), fate{reason: "retries"}},
		{"asked", odd, 2, boom, fate{delay: 2 * time.Second}},
		{"asked about the attempt", odd, 3, boom, fate{reason: "retries"}},
		{"asked about the error", odd, 1, errors.New("other"), fate{reason: "retries"}},
		{"growing", growing, 7, boom, fate{delay: 7 * time.Minute}},
		{"panic", broken, 1, boom, fate{delay: 2 * time.Second}},
		{"panic for ever", broken, 31, boom, fate{delay: 2 * time.Second, reason: "retries"}},
	}
	for _, tc := range tests {
		tc.policy.setDefaults()
		if have := tc.policy.decide(tc.attempt, tc.err); have != tc.want {
			t.Errorf("%s: have %+v, want %+v", tc.name, have, tc.want)
		}
	}
	if Permanent(nil) != nil || RetryAfter(1, nil) != nil {
		t.Error("nil has become an error")
	}
	if !errors.Is(RetryAfter(1, Permanent(boom)), boom) {
		t.Error("the cause is hidden")
	}
}
