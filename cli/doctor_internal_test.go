package cli

import (
	"testing"
	"time"
)

// What cannot be made wrong on a server that others use, too.
func TestFindings(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for name, tt := range map[string]struct {
		have finding
		want string
	}{
		"clocks agree":            {clockFinding("x", now.Add(time.Second), now), levelOK},
		"clock ahead":             {clockFinding("x", now.Add(3*time.Second), now), levelWrong},
		"clock behind":            {clockFinding("x", now.Add(-3*time.Second), now), levelWrong},
		"lease long enough":       {leaseFinding(10*time.Second, 50*time.Millisecond), levelOK},
		"lease too short":         {leaseFinding(time.Second, 400*time.Millisecond), levelWrong},
		"MariaDB's default mode":  {modeFinding("STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO"), levelOK},
		"strict for all engines":  {modeFinding("ANSI,STRICT_ALL_TABLES"), levelOK},
		"no mode":                 {modeFinding(""), levelWrong},
		"a mode that is not that": {modeFinding("NO_ENGINE_SUBSTITUTION"), levelWrong},
	} {
		if tt.have.Level != tt.want || tt.have.Level == levelWrong && tt.have.Remedy == "" {
			t.Errorf("%s: %+v, want %s", name, tt.have, tt.want)
		}
	}
}

func TestBindingMatches(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		key, topic string
		want       bool
	}{
		{"account", "account", true},
		{"account", "accounts", false},
		{"#", "account", true},
		{"*", "account", true},
		{"*", "a.b", false},
		{"a.#", "a", true},
		{"a.#.d", "a.b.c.d", true},
		{"a.*.d", "a.b.c.d", false},
		{"a.b", "a", false},
	} {
		if have := matches(tt.key, tt.topic); have != tt.want {
			t.Errorf("binding %q gets %q: %v, want %v", tt.key, tt.topic, have, tt.want)
		}
	}
}
