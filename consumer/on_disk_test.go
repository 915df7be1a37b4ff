package consumer

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// TestAcknowledgedIsOnTheDisk: where PostgreSQL answers a COMMIT before its disk has it,
// what is acknowledged to the broker could be lost. The consumer's own transactions wait;
// other settings stay as they are.
func TestAcknowledgedIsOnTheDisk(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{"off": "on", "on": "on", "local": "local", "remote_apply": "remote_apply"} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			_, dsn := testdb.Postgres(t)
			db := reopen(t, dsn, "synchronous_commit", setting)
			migrate(t, db, Postgres)
			mustExec(t, db, strings.ReplaceAll(accountTable, "%s", "timestamptz"))
			mustExec(t, db, `CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
				NEW.local = current_setting('synchronous_commit'); RETURN NEW; END $$;
				CREATE TRIGGER tell BEFORE INSERT OR UPDATE ON account_ref FOR EACH ROW EXECUTE FUNCTION tell()`)
			broker := newTestBroker()
			c, err := New(db, broker, Config{Queue: "replica"})
			if err == nil {
				err = c.Table("account", Table{Name: "account_ref", Columns: accountColumns})
			}
			handled := make(chan string, 2)
			if err == nil {
				err = Handle(c, "author", func(ctx context.Context, tx Tx, _ Event[author]) error {
					var have string
					err := tx.QueryRowContext(ctx, "SELECT current_setting('synchronous_commit')").Scan(&have)
					handled <- have
					return err
				})
			}
			if err != nil {
				t.Fatal(err)
			}
			r := &rig{Consumer: c}
			run := r.start(t, broker, broker)
			broker.deliver(save(1, 1, "one"), save(2, 1, "two"), authorEvent("SAVE", 1, 1, "new"), authorEvent("SAVE", 1, 2, "changed"))
			run.awaitAcked(t, 4)
			have := []string{<-handled, <-handled}
			have = append(have, dump(t, db, "SELECT DISTINCT local FROM account_ref")...)
			if diff := cmp.Diff([]string{want, want, "local=" + want}, have); diff != "" {
				t.Errorf("synchronous_commit of an insert and an update of a handler's note, and of a table's batch (-want +have):\n%s", diff)
			}
		})
	}
}
