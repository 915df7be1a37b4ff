package outbox_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/outbox"
)

// A clock that is set back sets no stamp back, not even that of another row under
// a key that was deleted.
func TestStampsNeverGoBack(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		stamp := `2100-01-01 00:00:00.000000+00:00`
		if m.dialect == outbox.MySQL {
			stamp = strings.TrimSuffix(stamp, "+00:00")
		}
		m.exec(t, `INSERT INTO accounts (id, name, cqrs_updated) VALUES (1, 'x', '`+stamp+`')`)
		m.inTx(t, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("account", 1) })
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error { return tx.Delete(ctx, "account", 1) })
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'again')`), tx.Saved("account", 1))
		})
		for i, e := range m.events(t) {
			if v, err := e.Version(); err != nil || v.Updated.Year() != 2100 || v.Revision != int64(i+1) {
				t.Errorf("event %d is of revision %d and %v (%v), want none before 2100", i, v.Revision, v.Updated, err)
			}
		}
	})
}
