package cli_test

import (
	"net/url"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/internal/testdb"
)

// postgresBroker is a broker on PostgreSQL, in a schema of the test's own.
func postgresBroker(t *testing.T) string {
	t.Helper()
	_, dsn := testdb.Postgres(t)
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal("not a URL")
	}
	q := u.Query()
	q.Set("schema", q.Get("search_path"))
	q.Del("search_path")
	u.RawQuery = q.Encode()
	return u.String()
}

// The commands that ask a broker get their answers from PostgreSQL, too.
func TestPostgresBroker(t *testing.T) {
	t.Parallel()
	at := postgresBroker(t)
	config := writeFile(t, "lockstep.yaml", "entities:\n  account: {table: accounts}\n  author: {table: authors}\n")
	relay(t, "status", "--broker-url", at, "--queue", "billing").expect(t, 1, `there is no queue "billing"`)
	b, err := broker.Open(t.Context(), at, broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	if err := b.Bind(t.Context(), "billing", "account"); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish("account", message.NewMessage("1", nil), message.NewMessage("2", nil)); err != nil {
		t.Fatal(err)
	}
	relay(t, "status", "--broker-url", at, "--queue", "billing").wantOut(t, "queue    billing: 2 messages, 0 consumers; 0 dead letters\n")
	d := diagnose(t, "--broker-url", at, "--config", config, "--queue", "billing")
	d.finds(t, "routes", "ok", "entity account")
	d.finds(t, "routes", "wrong", "entity author")
	d.finds(t, "queue", "ok", "2 messages and 0 consumers")
	d.finds(t, "consumer", "wrong", "2 messages wait in billing")
	d.finds(t, "publish", "ok", "confirms")
}

// One database is master, replica and broker.
func TestDemoOnPostgresAlone(t *testing.T) {
	t.Parallel()
	_, database := ownDatabase(t)
	p := start(t, nil, "demo", "--for", "1s", "--json", "--database-url", database, "--replica-url", database, "--broker-url", database)
	if code, _ := p.exit(patience); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if have := p.log.String(); have != "" {
		t.Errorf("stderr: %s", have)
	}
	checkDemo(t, p.out.String(), time.Second)
}
