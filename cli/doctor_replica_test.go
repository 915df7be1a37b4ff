package cli_test

import (
	"testing"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// What can part a replica from its master although nothing fails is noted, and is
// nothing wrong.
func TestDoctorNotesWhatCanPartAReplica(t *testing.T) {
	t.Parallel()
	const version = "cqrs_revision bigint NOT NULL, cqrs_updated timestamptz NOT NULL"
	db, url := testdb.Postgres(t)
	mustRelay(t, "migrate", "up", "--database-url", url)
	for _, statement := range []string{
		`CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`,
		`CREATE TABLE shop_ref (id text COLLATE loose PRIMARY KEY, ` + version + `)`,
		`CREATE TABLE till_ref (id bigint PRIMARY KEY, shop text COLLATE loose REFERENCES shop_ref (id) ON DELETE CASCADE, ` + version + `)`,
	} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	file := writeFile(t, "lockstep.yaml", "queue: billing\nreplicas:\n  shop: {table: shop_ref}\n  till: {table: till_ref}\n")
	d := diagnose(t, "--database-url", url, "--config", file)
	if d.code != 0 {
		t.Errorf("exit code %d, want 0", d.code)
	}
	d.finds(t, "columns", "ok", "as they have to be")
	d.finds(t, "rows", "note", `till_ref: the database deletes rows with those of table shop_ref`)
	d.finds(t, "rows", "note", `shop_ref: key column id takes different texts for one key (loose)`)
}
