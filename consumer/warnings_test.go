package consumer

import (
	"log/slog"
	"strings"
	"testing"
)

// TestWarnings: what can part a replica from its master without a message failing is
// told by Warnings and by Run, and is no fault. What looks like it and is none is not.
func TestWarnings(t *testing.T) {
	t.Parallel()
	const version = "cqrs_revision bigint NOT NULL, cqrs_updated %s NOT NULL"
	eachDialect(t, func(t *testing.T, d Dialect) {
		ddl := []string{
			`CREATE TABLE elsewhere (id bigint PRIMARY KEY)`,
			`CREATE TABLE shop (id bigint PRIMARY KEY, other bigint, ` + version + `, FOREIGN KEY (other) REFERENCES elsewhere (id) ON DELETE CASCADE)`,
			`CREATE TABLE till (id bigint PRIMARY KEY, shop bigint, above bigint, ` + version + `,
				FOREIGN KEY (shop) REFERENCES shop (id) ON DELETE CASCADE, FOREIGN KEY (above) REFERENCES till (id) ON DELETE SET NULL)`,
			`CREATE TABLE receipt (id bigint PRIMARY KEY, till bigint, ` + version + `, FOREIGN KEY (till) REFERENCES till (id))`,
		}
		want := []string{`entity "till": table till: the database deletes rows with those of table shop that they refer to (ON DELETE CASCADE)`}
		names := []string{"shop", "till", "receipt"}
		switch d {
		case Postgres:
			// The extension would be the whole database's: a type of its name stands in for it.
			ddl = append(ddl, `CREATE TYPE citext AS ENUM ('a')`, `CREATE DOMAIN word AS citext`,
				`CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`,
				`CREATE TABLE coupon (id word PRIMARY KEY, `+version+`)`,
				`CREATE TABLE colour (id text COLLATE loose PRIMARY KEY, `+version+`)`,
				`CREATE TABLE plain (id text COLLATE "C" PRIMARY KEY, note citext, `+version+`)`)
			want = append(want, `entity "coupon": table coupon: key column id takes different texts for one key (citext)`,
				`entity "colour": table colour: key column id takes different texts for one key (loose)`)
			names = append(names, "coupon", "colour", "plain")
		case SQLite:
			ddl = append(ddl, `CREATE TABLE coupon (id text COLLATE NOCASE PRIMARY KEY, `+version+`)`,
				`CREATE TABLE plain (id text PRIMARY KEY, note text COLLATE NOCASE UNIQUE, `+version+`)`)
			want = append(want, `entity "coupon": table coupon: key column id takes different texts for one key (NOCASE)`)
			names = append(names, "coupon", "plain")
		}
		r := rigInOrder(t, openDB(t, d, ddl...), names...)
		if err := r.Check(t.Context()); err != nil {
			t.Errorf("Check: %v", err)
		}
		have, err := r.Warnings(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range want {
			found := false
			for _, warning := range have {
				found = found || strings.Contains(warning.Error(), text)
			}
			if !found {
				t.Errorf("no warning %q in %v", text, have)
			}
		}
		if len(have) != len(want) {
			t.Errorf("%d warnings, want %d: %v", len(have), len(want), have)
		}
		log := newLogCount()
		r.cfg.Logger = slog.New(log)
		broker := newTestBroker()
		run := r.start(t, broker, broker)
		eventually(t, "Run tells of them", func() bool { return log.count("the replica may come to differ from its master") == len(want) })
		if err := run.stop(t); err != nil {
			t.Error(err)
		}
	})
}
