package relay_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

// A broker that goes away while a relay drains has taken nothing: the relay does not say
// that it has drained.
func TestOutageWhileDraining(t *testing.T) {
	t.Parallel()
	db, _ := testdb.SQLite(t)
	m := migrated(t, db, relay.SQLite)
	for _, away := range []bool{false, true} {
		m.put(t, "a1")
		var said logged
		answer := make(chan struct{})
		broker := &recorder{delay: answer, fate: func(string) error {
			if away {
				return errors.New("the broker is away")
			}
			return nil
		}}
		_, stop := m.start(t, broker, relay.Config{Logger: slog.New(slog.NewTextHandler(&said, nil))})
		eventually(t, "the message is under way", func() bool { return len(broker.all()) == 1 })
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			stop()
		}()
		eventually(t, "it drains", func() bool { return strings.Contains(said.String(), "msg=draining") })
		close(answer)
		<-stopped
		if drained, left := strings.Contains(said.String(), "drained 1"), m.count(t, "outbox"); drained == away || (left == 1) != away {
			t.Errorf("with the broker away: %v: it says that it drained: %v, %d messages are left\n%s", away, drained, left, said.String())
		}
	}
}
