package cli_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// newMySQLPipeline is newPipeline on MariaDB.
func newMySQLPipeline(t *testing.T) *pipeline {
	t.Helper()
	p := &pipeline{t: t, brokerURL: testdb.RabbitMQURL(t), entity: unique("account"), queue: unique("billing")}
	var dsn string
	p.master, dsn = testdb.MariaDB(t)
	p.masterURL = testdb.MariaDBURL(t, dsn)
	p.replica, dsn = testdb.MariaDB(t)
	p.replicaURL = testdb.MariaDBURL(t, dsn)
	mustRelay(t, "migrate", "up", "--database-url", p.masterURL)
	mustRelay(t, "migrate", "up", "--database-url", p.replicaURL)
	p.exec(p.replica, `CREATE TABLE account_ref (id bigint PRIMARY KEY, title text NOT NULL)`, mustRelay(t, "migrate", "table", "account_ref", "--dialect", "mysql"))
	p.config = writeFile(t, "lockstep.yaml", fmt.Sprintf(`
queue: %s
replicas:
  %s: {table: account_ref, key: id, columns: {id: id, name: title}, max_retries: 3, retry_delay: 100ms}
`, p.queue, p.entity))
	p.openServer()
	return p
}

// put inserts events as any program may: the outbox is a public contract.
func (p *pipeline) put(signal string, id, revision int, name string) {
	p.t.Helper()
	body := fmt.Sprintf(`{"signal_type":%q,"cqrs_id":%q,"instance_data":{"id":%d,"name":%q,"cqrs_revision":%d,"cqrs_updated":"2026-01-02 03:04:%02d.000000+00:00"},`+
		`"previous_data":null,"instance_pk":%d,"correlation_id":null,"retries":0,"expires":null,"meta":{}}`, signal, p.entity, id, name, revision, revision, id)
	if _, err := p.master.ExecContext(p.t.Context(), `INSERT INTO outbox (topic, "key", payload) VALUES (?, ?, ?)`, p.entity, id, body); err != nil {
		p.t.Fatal(err)
	}
}

// TestMariaDBToMariaDB: what is in an outbox on MariaDB goes through RabbitMQ to a
// replica on MariaDB, by the two commands.
func TestMariaDBToMariaDB(t *testing.T) {
	t.Parallel()
	p := newMySQLPipeline(t)
	run, consume := p.run(), p.consume()
	for id := range 50 {
		p.put("SAVE", id, 1, fmt.Sprintf("žába %d 🐎 \\ '", id))
	}
	p.put("SAVE", 1, 2, "renamed")
	p.put("DELETE", 2, 2, "")
	eventually(t, func() string {
		if left, rows := p.count(p.master, "outbox"), p.count(p.replica, "account_ref"); left != 0 || rows != 49 {
			return fmt.Sprintf("%d rows in the outbox and %d in the replica, want 0 and 49", left, rows)
		}
		if n := p.count(p.replica, "account_ref WHERE id = 1 AND title = 'renamed' AND cqrs_revision = 2"); n != 1 {
			return "the newest state of account 1 is not there"
		}
		return ""
	})
	var title string
	if err := p.replica.QueryRowContext(t.Context(), `SELECT title FROM account_ref WHERE id = 7`).Scan(&title); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`žába 7 🐎 \ '`, title); diff != "" {
		t.Errorf("title (-want +have):\n%s", diff)
	}
	run.exitsCleanly()
	consume.exitsCleanly()
}
