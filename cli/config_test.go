package cli_test

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// Faults of the file that can be known without a database are misuse, and found
// before anything is connected to. Most hold for both commands that read it.
func TestConfigFile(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		content string
		want    []string
	}{
		"not YAML":                {"queue: [", []string{"[1:8]"}},
		"another shape":           {"queue: q\nreplicas: account\n", []string{"[2:11]", "mapping is expected"}},
		"list for a text":         {"queue: [a]\n", []string{"[1:8] use a text here"}},
		"text for a number":       {"queue: q\nconsume: {workers: x}\nreplicas: {a: {table: t}}\n", []string{"[2:20] use a whole number here"}},
		"unknown key":             {"quee: billing\n", []string{`[1:1] unknown key "quee": did you mean queue? known here are consume, entities, max_payload, queue, replicas`}},
		"unknown key, deeper":     {"queue: q\nreplicas:\n  account: {table: t, colums: {id: id}}\n", []string{`[3:23] replicas: account: unknown key "colums": did you mean columns? known here are columns, key, max_retries`}},
		"entity twice":            {"entities:\n  account: {table: a}\n  account: {table: b}\n", []string{`[3:3]`, `"account" already defined at [2:3]`}},
		"replica twice":           {"queue: q\nreplicas:\n  account: {table: a}\n  account: {table: b}\n", []string{`[4:3]`, `"account" already defined at [3:3]`}},
		"entity without table":    {"entities:\n  account: {key: id}\n", []string{"entity account: table is missing: name the table"}},
		"entity's name":           {"entities:\n  'a b': {table: t}\n", []string{`entities: ID "a b"`, "white space"}},
		"field twice":             {"entities:\n  account: {table: t, fields: [id, name, name]}\n", []string{`entity account: field "name" is named twice`}},
		"key not in fields":       {"entities:\n  account: {table: t, key: code, fields: [id]}\n", []string{`entity account: key "code" is not in fields: add it`}},
		"version in fields":       {"entities:\n  account: {table: t, fields: [id, cqrs_revision]}\n", []string{`entity account: field "cqrs_revision" is always sent: leave it out`}},
		"ttl without unit":        {"entities:\n  account: {table: t, ttl: 60}\n", []string{`entities: account: ttl is "60": use a time with its unit, such as 2s`}},
		"ttl below a second":      {"entities:\n  account: {table: t, ttl: 100ms}\n", []string{"entity account: ttl is 100ms: use whole seconds"}},
		"ttl negative":            {"entities:\n  account: {table: t, ttl: -1h}\n", []string{`entities: account: ttl is "-1h": use a time above zero`}},
		"where of two statements": {"entities:\n  a: {table: t, where: 'id > 0; DROP TABLE t'}\n", []string{"entity a: where: ';' has no place in a condition"}},
		"unknown leave":           {"entities:\n  a: {table: t, leave: loudly}\n", []string{`entity a: leave is "loudly": use delete or silent`}},
		"unknown decimals":        {"entities:\n  a: {table: t, decimals: float, non_finite: zero}\n", []string{`decimals is "float": use number or string`, `non_finite is "zero": use null or error`}},
		"tracked twice":           {"entities:\n  a: {table: t, tracked: [name, name]}\n", []string{`entity a: field "name" is named twice in tracked`}},
		"all tracked and one":     {"entities:\n  a: {table: t, tracked: ['*', name]}\n", []string{`entity a: tracked has "*", which stands for all, and names beside it`}},
		"part of a key unsent":    {"entities:\n  a: {table: t, key: [region, number], fields: [number]}\n", []string{`entity a: key "region" is not in fields`}},
		"negative max_payload":    {"max_payload: -1\nentities:\n  a: {table: t}\n", []string{"max_payload is -1"}},
		"replica without table":   {"queue: q\nreplicas:\n  account: {key: id}\n  author:\n", []string{"replicas: account: table is missing", "replicas: author: table is missing"}},
		"replica's name":          {"queue: q\nreplicas:\n  'a*': {table: t}\n", []string{`"a*"`, "wildcards"}},
		"one table twice":         {"queue: q\nreplicas:\n  a: {table: t}\n  b: {table: t}\n", []string{`table t follows "a" already`}},
		"one column twice":        {"queue: q\nreplicas:\n  a: {table: t, columns: {id: id, x: name, y: name}}\n", []string{`"x" and "y" to column name`}},
		"key of two columns":      {"queue: q\nreplicas:\n  a: {table: t, key: [id, code], columns: {id: id}}\n", []string{"no field to the key column code"}},
		"key of another shape":    {"queue: q\nreplicas:\n  a: {table: t, key: {id: id}}\n", []string{"[3:22]"}},
		"key not in columns":      {"queue: q\nreplicas:\n  a: {table: t, key: code, columns: {id: id}}\n", []string{"no field to the key column code"}},
		"retries below -1":        {"queue: q\nreplicas:\n  a: {table: t, max_retries: -2}\n", []string{"replicas: a: max_retries is -2: use 0 for none, -1 for ever"}},
		"retries in words":        {"queue: q\nreplicas:\n  a: {table: t, max_retries: many}\n", []string{"[3:30]"}},
		"delay without unit":      {"queue: q\nreplicas:\n  a: {table: t, retry_delay: 2}\n", []string{`replicas: a: retry_delay is "2": use a time with its unit`}},
		"delay of unknown unit":   {"queue: q\nreplicas:\n  a: {table: t, retry_delay: 2 weeks}\n", []string{`replicas: a: retry_delay is "2 weeks"`}},
		"delay of zero":           {"queue: q\nreplicas:\n  a: {table: t, retry_delay: 0s}\n", []string{`replicas: a: retry_delay is "0s"`}},
		"queue's name":            {"queue: 'a b'\nreplicas: {a: {table: t}}\n", []string{`queue "a b"`, "white space"}},
		"consume's settings": {
			"queue: q\nconsume: {batch_size: 0, workers: -1, max_parked: 0, statement_timeout: 5, transaction_timeout: 1us, dead_letter_ttl: never, tombstone_retention: -1h}\nreplicas: {a: {table: t}}\n",
			[]string{
				"consume: batch_size is 0: use 1 or more", "consume: workers is -1", "consume: max_parked is 0", `consume: statement_timeout is "5": use a time with its unit`,
				"consume: transaction_timeout is 1µs: use 1ms or more", `consume: dead_letter_ttl is "never"`, `consume: tombstone_retention is "-1h"`,
			},
		},
		"unknown keys, far from any": {"entities: {a: {table: t, zzzzzzz: 1, 'no': 2}}\nreplicas: {b: &b {table: t, keys: [id]}}\nx: *b\n", []string{
			`[1:26] entities: a: unknown key "zzzzzzz": known here are decimals, fields`, `[1:38] entities: a: unknown key "no": known here are`,
			`[2:29] replicas: b: unknown key "keys": did you mean key?`, `[3:1] unknown key "x"`,
		}},
		"consume's unknown key": {"queue: q\nconsume: {batchsize: 5}\nreplicas: {a: {table: t}}\n", []string{`consume: unknown key "batchsize": did you mean batch_size?`}},
		"both sides": {
			"queue: q\nentities:\n  a: {table: t, fields: [x, x]}\nreplicas:\n  b: {table: t, retry_delay: -2s, max_retries: -3}\n",
			[]string{`field "x" is named twice`, `key "id" is not in fields`, `retry_delay is "-2s"`, "max_retries is -3"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := writeFile(t, "lockstep.yaml", tt.content)
			want := append(tt.want, path+": ")
			for _, command := range []string{"run", "consume"} {
				o := relay(t, command, "--config", path, "--database-url", noDatabase, "--broker-url", noBroker)
				o.expect(t, 2, want...)
				if name := regexp.MustCompile(`Config\.|\b[A-Z][a-z]+[A-Z][a-z]\w*|\b(Leave|Where|Fields|Tracked|Columns|Decimals|Table|TTL)\b`).FindString(strings.ReplaceAll(o.stderr, path, "")); name != "" {
					t.Errorf("who writes the file knows of no %s: %s", name, o.stderr)
				}
			}
		})
	}
}

func TestConfigFileForConsume(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "lockstep.yaml")
	folder := t.TempDir()
	file := func(content string) string { return writeFile(t, "lockstep.yaml", content) }
	tests := map[string]struct {
		line string
		want []string
	}{
		"no file":     {"--config " + missing, []string{"--config: open " + missing + ": no such file"}},
		"a folder":    {"--config " + folder, []string{folder, "is a directory"}},
		"empty":       {"--config " + file(""), []string{"queue is missing", "--queue"}},
		"no queue":    {"--config " + file("replicas: {a: {table: t}}"), []string{"queue is missing", "--queue"}},
		"no replicas": {"--config " + file("queue: q"), []string{"replicas is missing: declare at least one table"}},
		"short retention, names": {
			"--entities a,nosuch --ignore b --config " + file("queue: q\nconsume: {tombstone_retention: 24h}\nreplicas: {a: {table: t}, b: {table: u}}"),
			[]string{`replicas: a: tombstone_retention of consume (--tombstone-retention) is 24h0m0s`, "or dead_letter_ttl (--dead-letter-ttl), max_retries or retry_delay less", `replicas: b: tombstone_retention`, `entities has "nosuch", which is none of the replicas: [a b]`, `ignore has "b", which is one of the replicas`},
		},
		"long dead letters": {"--dead-letter-ttl 1000h --config " + file("queue: q\nreplicas: {a: {table: t}}"), []string{`a message may come back after 1000h1m0s`}},
		"flag's queue":      {"--queue a* --config " + file("queue: q\nreplicas: {a: {table: t}}"), []string{`--queue: the name "a*"`, "wildcards"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			line := "consume --database-url " + noDatabase + " --broker-url " + noBroker + " " + tt.line
			relay(t, args(line)...).expect(t, 2, tt.want...)
		})
	}
	// A queue on the command line stands for a missing one: now the database is asked.
	line := "consume --queue q --database-url " + noDatabase + " --broker-url " + noBroker + " --config " + file("replicas: {a: {table: t}}")
	relay(t, args(line)...).expect(t, 1, "cannot be reached")
	// So does a longer retention for retries that need it, and every setting is taken.
	line = "consume --tombstone-retention 2000h --statement-timeout 5s --workers 2 --max-parked 9 --batch-size 7 --entities a --ignore z --only-direct-syncs --database-url " +
		noDatabase + " --broker-url " + noBroker + " --config " + file("queue: q\nconsume: {tombstone_retention: 750h, dead_letter_ttl: 240h, batch_size: 9, statement_timeout: 1s, "+
		"transaction_timeout: 30s, workers: 3, max_parked: 4, entities: [b], ignore: [y]}\nreplicas: {a: {table: t, retry_delay: 24h, only_direct_syncs: true}, b: {table: u}}")
	relay(t, args(line)...).expect(t, 1, "cannot be reached")
}

// What only the database knows is a failure: the file may be right and the
// database behind.
func TestConfigAgainstDatabase(t *testing.T) {
	t.Parallel()
	db, postgres := testdb.Postgres(t)
	mustRelay(t, "migrate", "up", "--database-url", postgres)
	for _, statement := range []string{
		`CREATE TABLE account_ref (id bigint PRIMARY KEY, title text NOT NULL)`,
		`CREATE TABLE accounts (id bigint, cqrs_revision bigint NOT NULL DEFAULT 0, cqrs_updated timestamptz NOT NULL DEFAULT now())`,
		`ALTER TABLE account_ref ADD cqrs_revision bigint NOT NULL DEFAULT 0, ADD cqrs_updated timestamptz NOT NULL DEFAULT now()`,
		`CREATE TABLE bare (id bigint PRIMARY KEY)`,
	} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	all := "max_payload: 1000\nentities: {a: {table: account_ref, key: [id], fields: [id, title], tracked: '*', where: \"title <> ''\", leave: silent, decimals: string, non_finite: error, muted: true, ttl: 5s}, b: {table: nosuch}}"
	tests := map[string]struct {
		command, content string
		want             []string
	}{
		"entity's table":        {"run", "entities: {a: {table: nosuch}}", []string{"entity a: table nosuch: no such table"}},
		"entity's column":       {"run", "entities: {a: {table: account_ref, fields: [id, nosuch]}}", []string{`entity a: table account_ref has no column "nosuch"`, "title"}},
		"entity's key":          {"run", "entities: {a: {table: accounts}}", []string{"entity a: table accounts may hold several rows", "unique index"}},
		"entity's versions":     {"run", "entities: {a: {table: bare}}", []string{"entity a: table bare lacks cqrs_revision", "ALTER TABLE"}},
		"every option":          {"run", all, []string{"entity b: table nosuch"}},
		"entity's where":        {"run", "entities: {a: {table: account_ref, where: 'balance >= 0'}}", []string{"entity a: where is no condition over the columns of table account_ref", "balance"}},
		"entity's keys":         {"run", "entities: {a: {table: account_ref, key: [id, title]}}", []string{"entity a: table account_ref may hold several rows with one id, title"}},
		"tracked column":        {"run", "entities: {a: {table: account_ref, tracked: [nosuch]}}", []string{`entity a: table account_ref has no column "nosuch": correct tracked`}},
		"several":               {"run", "entities: {a: {table: nosuch}, b: {table: bare}}", []string{"entity a: ", "entity b: "}},
		"replica's table":       {"consume", "replicas: {a: {table: nosuch}}", []string{`entity "a": table nosuch: no such table: create it`}},
		"replica's column":      {"consume", "replicas: {a: {table: account_ref, columns: {id: id, name: nosuch, x: title}}}", []string{`field "name" goes to column nosuch, which does not exist`, "title"}},
		"replica's key":         {"consume", "replicas: {a: {table: accounts}}", []string{"key column id is not unique", "CREATE UNIQUE INDEX"}},
		"replica's versions":    {"consume", "replicas: {a: {table: bare}}", []string{"cqrs_revision and cqrs_updated are missing", "ALTER TABLE"}},
		"column without source": {"consume", "replicas: {a: {table: account_ref, columns: {id: id}}}", []string{"column title may not be null and has no default"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := writeFile(t, "lockstep.yaml", "queue: q\n"+tt.content+"\n")
			o := relay(t, tt.command, "--config", path, "--database-url", postgres, "--broker-url", embedded(t), "--log-format", "json")
			o.expect(t, 1, tt.want...)
			if strings.Contains(o.stderr, "panic") {
				t.Error(o)
			}
		})
	}
}
