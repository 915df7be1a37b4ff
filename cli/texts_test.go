package cli_test

import (
	"database/sql"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// MariaDB may be called by its name.
func TestMariaDBByItsName(t *testing.T) {
	t.Parallel()
	_, dsn := testdb.MariaDB(t)
	url := strings.Replace(testdb.MariaDBURL(t, dsn), "mysql://", "mariadb://", 1)
	mustRelay(t, "migrate", "up", "--database-url", url)
	if have := mustRelay(t, "status", "--database-url", url); !strings.Contains(have, "outbox   0 pending") {
		t.Errorf("status: %s", have)
	}
	for _, line := range []string{"migrate sql --dialect ", "migrate table accounts --dialect "} {
		want, have := mustRelay(t, args(line+"mysql")...), mustRelay(t, args(line+"mariadb")...)
		if have != want {
			t.Errorf("%smariadb differs from mysql: %s", line, have)
		}
	}
}

// A key that is none is told in the command's words, and nothing stands above an error.
func TestKeysThatAreNone(t *testing.T) {
	t.Parallel()
	url := sqlite(t)
	db, err := sql.Open("sqlite", strings.TrimPrefix(url, "sqlite://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = db.Close() }()
	if _, err := db.ExecContext(t.Context(), `CREATE TABLE shelf (region text, number int,
		cqrs_revision int NOT NULL DEFAULT 0, cqrs_updated text, PRIMARY KEY (region, number))`); err != nil {
		t.Fatal(err)
	}
	config := writeFile(t, "lockstep.yaml", "entities:\n  shelf: {table: shelf, key: [region, number]}\n")
	o := relay(t, "sync", "--cqrs-id", "shelf", "--all", "--from", "7", "--config", config, "--database-url", url)
	o.expect(t, 2, `the JSON array of the texts of region, number, such as ["eu","7"]`)
	if strings.Contains(o.stderr, "outbox.") {
		t.Errorf("sync speaks of Go: %v", o)
	}
	for _, line := range []string{"trace shelf 7", "trace nosuch 7"} {
		o := relay(t, append(args(line), "--config", config, "--database-url", url)...)
		if o.code != 2 || o.out != "" {
			t.Errorf("relay %s: %v, want misuse and nothing on stdout", line, o)
		}
	}
}
