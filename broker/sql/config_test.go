package sql_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/broker/sql"
)

// TestOpenRejects: faults of the configuration are told together, as such, and never with a password.
func TestOpenRejects(t *testing.T) {
	t.Parallel()
	const at = "postgres://user:s3cret@127.0.0.1:1/db?sslmode=disable"
	tests := map[string]struct {
		url  string
		cfg  sql.Config
		want []string
	}{
		"fields": {at, sql.Config{Prefetch: -1, Window: -1, MaxSize: -1, Poll: time.Millisecond, Lease: time.Millisecond, ConfirmTimeout: -1, Schema: strings.Repeat("x", 64)}, []string{
			"Prefetch is -1", "Window is -1", "MaxSize is -1", "Poll is 1ms", "Lease is 1ms", "ConfirmTimeout is -1ns", "Schema is",
		}},
		"parameters":     {at + "&prefetch=0&window=x&lease=5&poll=-1s", sql.Config{}, []string{"prefetch", "window", "lease", "poll"}},
		"small lease":    {at + "&lease=10ms", sql.Config{}, []string{"Lease is 10ms"}},
		"large messages": {at + "&max_size=300000000", sql.Config{}, []string{"MaxSize is 300000000"}},
		"scheme":         {"mysql://user:s3cret@host/db", sql.Config{}, []string{"mysql"}},
		"no URL":         {"postgres://user:s3cret@host:x/db", sql.Config{}, []string{"percent-encoded"}},
		"password cut":   {"postgres://user:s3/cret@host/db", sql.Config{}, []string{"percent-encoded"}},
		"no slashes":     {"postgres:user:s3cret@host/db", sql.Config{}, []string{"postgres://"}},
		"one slash":      {"postgres:/user:s3cret@host/db", sql.Config{}, []string{"postgres://"}},
		"query":          {"postgres://user:s3cret@host/db?%zz", sql.Config{}, []string{"query"}},
		"lib/pq's":       {"postgres://user:s3cret@host/db?sslmode=maybe", sql.Config{}, []string{"postgres://user:xxxxx@host/db"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := sql.Open(t.Context(), tt.url, tt.cfg)
			if !errors.Is(err, sql.ErrURL) {
				t.Fatalf("Open: %v, want ErrURL", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error lacks %q: %v", want, err)
				}
			}
			for line := range strings.Lines(err.Error()) {
				if !strings.HasPrefix(line, "sql: url: ") && !strings.HasPrefix(line, "sql: config: ") {
					t.Errorf("a fault does not begin with whose it is: %s", line)
				}
			}
			if strings.Contains(err.Error(), "s3") {
				t.Errorf("the error holds the password: %v", err)
			}
		})
	}
}
