package event_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
)

func TestSplitKey(t *testing.T) {
	t.Parallel()
	for key, want := range map[string][]string{
		`42`:                {"42"},
		``:                  {""},
		`["eu","7"]`:        {"eu", "7"},
		`["a\"],[","","é"]`: {`a"],[`, "", "é"},
		`[1,2]`:             {"[1,2]"}, // no key of Lockstep's
		`["eu"]`:            {`["eu"]`},
		`[eu`:               {"[eu"},
	} {
		if diff := cmp.Diff(want, event.SplitKey(key)); diff != "" {
			t.Errorf("%s (-want +have):\n%s", key, diff)
		}
	}
}
