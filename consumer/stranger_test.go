package consumer

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

// The dead letter of an entity that nothing follows is logged with its name, its
// key and what can be done.
func TestStrangersDeadLetterIsLogged(t *testing.T) {
	t.Parallel()
	_, err := read(nil, lockstep(envelope("SAVE", "product", `{"id":1}`)), time.Now())
	if err == nil {
		t.Fatal("it was read")
	}
	var log strings.Builder
	r := &runner{log: slog.New(slog.NewTextHandler(&log, nil))}
	r.logDead(nil, unknownEntity, reasonUnknown, err)
	for _, want := range []string{"entity=product", "reason=unknown", `key \"1\"`, "declare what follows it", "--ignore", "Config.Ignore", "queue of its own", "binding"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, log.String())
		}
	}
}
