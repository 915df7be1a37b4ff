package cli_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/cli"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/outbox"
)

// way is what `relay trace --json` prints.
type way struct {
	Master, Replica *struct {
		Is               string
		Revision         int
		Updated, Deleted string
	}
	Events []struct {
		Where, ID, Signal, Error string
		Revision, Attempts       int
		Created, Died            string
		RetryAt                  string `json:"retry_at"`
	}
}

func (p *pipeline) trace(key string, args ...string) (w way) {
	p.t.Helper()
	o := run(p.t, nil, "", append([]string{"trace", p.entity, key, "--json", "--config", p.config}, args...)...)
	o.expect(p.t, 0)
	if err := json.Unmarshal([]byte(o.out), &w); err != nil {
		p.t.Fatalf("trace: %v\n%v", err, o)
	}
	return w
}

func TestTrace(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	p.save(1, 3)
	all := []string{"--database-url", p.masterURL, "--replica-url", p.replicaURL, "--broker-url", p.brokerURL}
	p.exec(p.master,
		`INSERT INTO outbox_failures SELECT id, 4, 'queue is full', now() + interval '1 hour' FROM outbox WHERE key = '2'`,
		`INSERT INTO outbox_dead SELECT id + 100, topic, key, payload, metadata, created_at, 'too large', 9 FROM outbox WHERE key = '2'`,
		`INSERT INTO outbox (topic, key, payload) VALUES ('another', '2', '{}')`)
	p.exec(p.replica, `INSERT INTO account_ref VALUES (2, 'x', 7, '2026-01-02 03:04:05+00')`)
	open, err := broker.Open(t.Context(), p.brokerURL, broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = open.Close() }()
	letters := event.DeadLetterQueue(p.queue)
	if err := open.Bind(t.Context(), letters, event.DirectTopic(letters, p.entity)); err != nil {
		t.Fatal(err)
	}
	b := box{t: t, entity: p.entity, queue: p.queue}
	for _, key := range []string{"2", "3"} {
		letter := message.NewMessage(uuid.NewString(), []byte(b.body(key, true)))
		letter.Metadata = message.Metadata{event.HeaderReason: "data", event.HeaderError: "does not fit", event.HeaderFailedAt: "2026-02-03T04:05:06Z"}
		if err := open.Publish(event.DirectTopic(letters, p.entity), letter); err != nil {
			t.Fatal(err)
		}
	}
	w := p.trace("2", all...)
	if m := w.Master; m == nil || m.Is != "row" || m.Revision != 1 || m.Updated == "" {
		t.Errorf("master %+v, want its row at revision 1", m)
	}
	if r := w.Replica; r == nil || r.Is != "row" || r.Revision != 7 || !strings.HasPrefix(r.Updated, "2026-01-02") {
		t.Errorf("replica %+v, want its row at revision 7", r)
	}
	have := ""
	for _, e := range w.Events {
		have += fmt.Sprintf("%s revision %d attempts %d %q created %v died %v again %v\n", e.Where, e.Revision, e.Attempts, e.Error, e.Created != "", e.Died != "", e.RetryAt != "")
	}
	want := "pending revision 1 attempts 4 \"queue is full\" created true died false again true\n" +
		"dead revision 1 attempts 9 \"too large\" created true died true again false\n" +
		"dead letter revision 3 attempts 30 \"data: does not fit\" created false died true again false\n"
	if have != want {
		t.Errorf("events:\n%swant\n%s", have, want)
	}

	// One side alone.
	if w := p.trace("2", "--broker-url", p.brokerURL); w.Master != nil || w.Replica != nil || len(w.Events) != 1 {
		t.Errorf("the broker alone: %+v", w)
	}
	if w := p.trace("2", "--replica-url", p.replicaURL); w.Master != nil || w.Replica == nil || len(w.Events) != 0 {
		t.Errorf("the replica alone: %+v", w)
	}
	if w := p.trace("99", all...); w.Master.Is != "none" || w.Replica.Is != "none" || len(w.Events) != 0 {
		t.Errorf("a row that never was: %+v", w)
	}
	run(t, nil, "", "trace", p.entity, "2", "--config", p.config, "--database-url", p.masterURL).expect(t, 1, "account_ref", "--replica-url")
	// A replica's file knows nothing of the master's table: what is not looked for is not said to be missing.
	alone := writeFile(t, "replica.yaml", fmt.Sprintf("queue: %s\nreplicas:\n  %s: {table: account_ref}\n", p.queue, p.entity))
	if o := run(t, nil, "", "trace", p.entity, "2", "--config", alone, "--database-url", p.masterURL, "--replica-url", p.replicaURL); o.code != 0 ||
		!strings.Contains(o.out, "master       none was deleted; the table is not known here") || !strings.Contains(o.out, "replica      revision 7") {
		t.Errorf("a replica's file alone: %v", o)
	}
	o := run(t, nil, "", append([]string{"trace", p.entity, "2", "--config", p.config}, all...)...)
	o.expect(t, 0)
	for _, want := range []string{"30 retries: data: does not fit\n", p.entity + "/2\nmaster       revision 1, changed ", "pending      id ", "4 attempts, again at ", ": queue is full\n", "replica      revision 7, changed "} {
		if !strings.Contains(o.out, want) {
			t.Errorf("printed lacks %q:\n%s", want, o.out)
		}
	}
}

// A row that was deleted is known by what it left, on both sides.
func TestTraceOfADeletedRow(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	p.save(1, 1)
	err := p.outbox.InTx(t.Context(), p.master, func(ctx context.Context, tx *outbox.Tx) error { return tx.Delete(ctx, p.entity, 1) })
	if err != nil {
		t.Fatal(err)
	}
	relaying, consuming := p.run(), p.consume()
	eventually(t, func() string {
		w := p.trace("1", "--database-url", p.masterURL, "--replica-url", p.replicaURL)
		if m, r := w.Master, w.Replica; m.Is != "deleted" || m.Revision != 2 || m.Deleted == "" || r.Is != "deleted" || r.Revision != 2 || r.Deleted == "" {
			return fmt.Sprintf("master %+v, replica %+v; want both deleted at revision 2", *m, *r)
		}
		return ""
	})
	o := run(t, nil, "", "trace", p.entity, "1", "--config", p.config, "--database-url", p.masterURL, "--replica-url", p.replicaURL)
	if !strings.Contains(o.out, "master       deleted at revision 2") || !strings.HasSuffix(o.out, "both at the same revision\n") {
		t.Errorf("printed: %v", o)
	}
	relaying.exitsCleanly()
	consuming.exitsCleanly()
}

// The other databases, and keys of several columns.
func TestTraceOnOtherDatabases(t *testing.T) {
	t.Parallel()
	maria, dsn := testdb.MariaDB(t)
	path := t.TempDir() + "/shop.db"
	lite, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lite.Close() }()
	config := writeFile(t, "lockstep.yaml", `
entities:
  shelf: {table: shelves, key: [region, number]}
queue: billing
replicas:
  book: {table: books}
`)
	key := `["eu","7"]`
	for name, on := range map[string]struct {
		url, time string
		db        *sql.DB
	}{
		"mysql":  {testdb.MariaDBURL(t, dsn), "2026-01-02 03:04:05.000006", maria},
		"sqlite": {"sqlite://" + path, "2026-01-02 03:04:05.000006+00:00", lite},
	} {
		mustRelay(t, "migrate", "up", "--database-url", on.url)
		for _, statement := range []string{
			`CREATE TABLE shelves (region VARCHAR(9), number INTEGER, cqrs_revision INTEGER, cqrs_updated DATETIME(6))`,
			`CREATE TABLE books (id INTEGER, cqrs_revision INTEGER, cqrs_updated DATETIME(6))`,
			`INSERT INTO shelves VALUES ('eu', 7, 5, '{time}'), ('eu', 8, 6, '{time}')`,
			"INSERT INTO outbox (topic, `key`, payload, metadata) VALUES ('cqrs.billing.shelf', '" + key + "', 'x', '{}')",
			"INSERT INTO outbox_dead (id, topic, `key`, payload, metadata, created_at, error, attempts) VALUES (9, 'shelf', '" + key + "', 'x', '{}', '{time}', 'refused', 3)",
			"INSERT INTO replica_tombstones (replica, `key`, revision, updated) VALUES ('books', '1', 4, '{time}')",
		} {
			if _, err := on.db.ExecContext(t.Context(), strings.ReplaceAll(statement, "{time}", on.time)); err != nil {
				t.Fatalf("%s: %s: %v", name, statement, err)
			}
		}
		w := way{}
		o := relay(t, "trace", "shelf", key, "--json", "--database-url", on.url, "--config", config)
		if err := json.Unmarshal([]byte(o.out), &w); err != nil || o.code != 0 {
			t.Fatalf("%s: %v, %v", name, err, o)
		}
		if m := w.Master; m.Is != "row" || m.Revision != 5 || m.Updated != "2026-01-02 03:04:05.000006+00:00" {
			t.Errorf("%s: master %+v", name, *m)
		}
		if e := w.Events; len(e) != 2 || e[0].Where != "pending" || e[0].RetryAt != "" || e[1].Where != "dead" || e[1].Attempts != 3 || !strings.HasPrefix(e[1].Created, "2026-01-02T03:04:05") {
			t.Errorf("%s: events %+v", name, e)
		}
		w = way{}
		o = relay(t, "trace", "book", "1", "--json", "--database-url", on.url, "--config", config)
		if err := json.Unmarshal([]byte(o.out), &w); err != nil || w.Replica == nil || w.Replica.Is != "deleted" || w.Replica.Revision != 4 {
			t.Errorf("%s: %v, %v", name, err, o)
		}
		relay(t, "trace", "shelf", "7", "--database-url", on.url, "--config", config).expect(t, 2, "the key has 2 columns")
	}
}

// A database that does not answer ends the command, and says so.
func TestTraceIsBounded(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	tx, err := p.master.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), `LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	o := run(t, nil, "", "trace", p.entity, "1", "--config", p.config, "--database-url", p.masterURL, "--timeout", "300ms")
	o.expect(t, 1, "no answer within 300ms", "give --timeout more")
	relay(t, "trace", p.entity, "1", "--timeout", "0s").expect(t, 2, "--timeout is 0s: use 1ms or more")
}

func TestTraceMisuse(t *testing.T) {
	t.Parallel()
	config := writeFile(t, "lockstep.yaml", "entities:\n  account: {table: accounts}\n")
	relay(t, "trace", "account").expect(t, 2, "which row?")
	relay(t, "trace", "account", "1").expect(t, 2, "--database-url and --broker-url are missing")
	relay(t, "trace", "nobody", "1", "--config", config, "--database-url", noDatabase).expect(t, 2, `"nobody" is neither an entity nor a replica`)
	relay(t, "trace", "account", "1", "--config", config, "--database-url", noDatabase).expect(t, 1, "cannot be reached")
	relay(t, "trace", "account", "1", "--broker-url", noBroker).expect(t, 2, "--queue is missing")
	var out bytes.Buffer
	code := cli.Main(t.Context(), []string{"trace", "acount", "1", "--database-url", noDatabase}, &out, &out, cli.WithEntities(outbox.Entity{ID: "account", Table: "accounts"}))
	if have := out.String(); code != 2 || !strings.Contains(have, `"acount" is neither an entity nor a replica`) {
		t.Errorf("a service's own binary: exit code %d: %s", code, have)
	}
	relay(t, "trace", "account", "1", "--replica-url", "x").expect(t, 2, "--replica-url")
}
