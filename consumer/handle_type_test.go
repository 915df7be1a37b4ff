package consumer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/event"
)

type audited struct {
	Changes []struct{ At *time.Time }
}

type dated struct {
	Name string
	At   event.Time
	Left time.Time `json:"-"`
	Next *dated
}

type spelled time.Time

func (*spelled) UnmarshalJSON([]byte) error { return nil }

// TestTypesOfHandlers: what would fail with each event is a fault when the handler
// is registered.
func TestTypesOfHandlers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		handle func(c *Consumer) error
		fault  string
	}{
		"a struct":       {handleOf[dated], ""},
		"a pointer":      {handleOf[*dated], ""},
		"a map":          {handleOf[map[string]json.RawMessage], ""},
		"raw JSON":       {handleOf[json.RawMessage], ""},
		"anything":       {handleOf[any], ""},
		"its own":        {handleOf[struct{ At spelled }], ""},
		"a number":       {handleOf[int], "which int does not take: use a struct, a map or json.RawMessage"},
		"a list":         {handleOf[[]dated], "which []consumer.dated does not take"},
		"bytes":          {handleOf[[]byte], "which []uint8 does not take"},
		"a time":         {handleOf[time.Time], "which time.Time does not take"},
		"a time within":  {handleOf[audited], "consumer.audited.Changes.At is a time.Time, which does not read the times of masters: use event.Time"},
		"times in a map": {handleOf[map[string]time.Time], "map[string]time.Time is a time.Time"},
	} {
		c := &Consumer{cfg: Config{Queue: "q"}}
		c.cfg.setDefaults()
		err := tt.handle(c)
		if (err != nil) != (tt.fault != "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
			t.Errorf("%s: have %v, want %q", name, err, tt.fault)
		}
	}
}

func handleOf[T any](c *Consumer) error {
	return Handle(c, "a", func(context.Context, Tx, Event[T]) error { return nil })
}

func TestIgnoredAndRegistered(t *testing.T) {
	t.Parallel()
	c := &Consumer{cfg: Config{Queue: "q", Ignore: []string{"a", "b"}}}
	c.cfg.setDefaults()
	for _, err := range []error{handleOf[dated](c), c.Table("b", Table{Name: "b"})} {
		if err == nil || !strings.Contains(err.Error(), "Config.Ignore has it, too") {
			t.Errorf("have %v", err)
		}
	}
}

// TestDeadLetterIsLoggedWithItsKey, where the message could be read.
func TestDeadLetterIsLoggedWithItsKey(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	r := &runner{log: slog.New(slog.NewTextHandler(&out, nil))}
	in := &incoming{key: "42", ev: event.Event{CQRSID: "author"}}
	r.logDead(in, "author", reasonPermanent, errors.New("never"))
	r.logDead(nil, "stranger", reasonUnknown, errors.New("unknown"))
	for _, want := range []string{"entity=author/42 ", "entity=stranger "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log has no %s: %s", want, out.String())
		}
	}
}
