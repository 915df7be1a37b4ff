package cli_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/internal/testdb"
)

// Servers that are not there. Where a command ends with code 2 in spite of them,
// it did so before it connected to anything.
const (
	noDatabase = "postgres://user:" + secret + "@127.0.0.1:1/name?sslmode=disable"
	noBroker   = "amqp://user:" + secret + "@127.0.0.1:1/"
)

// args splits a line at its spaces.
func args(line string) []string { return strings.Fields(line) }

func TestMisuse(t *testing.T) {
	t.Parallel()
	both := " --database-url " + noDatabase + " --broker-url " + noBroker
	tests := map[string]struct {
		line string
		want []string
	}{
		"unknown command":             {"nosuch", []string{`unknown command "nosuch" for "relay"`, "See `relay --help`"}},
		"mistyped command":            {"migrat", []string{`unknown command "migrat"`, "did you mean migrate?"}},
		"unknown command of migrate":  {"migrate upp", []string{`unknown command "upp" for "relay migrate"`, "did you mean up?", "relay migrate --help"}},
		"help for an unknown command": {"help nosuch", []string{`unknown command "nosuch" for "relay"`}},
		"help for less":               {"help migrate nosuch", []string{`unknown command "nosuch" for "relay migrate"`}},
		"completion of nothing":       {"completion nosuch", []string{`unknown command "nosuch" for "relay completion"`}},
		"completion with an argument": {"completion bash x", []string{`relay completion bash takes flags only, and "x" is none`}},
		"migrate alone":               {"migrate", []string{"up, down, status, sql or table", "relay migrate --help"}},
		"unknown flag":                {"run --nosuch", []string{"unknown flag: --nosuch", "See `relay run --help`"}},
		"flag without its value":      {"run --database-url", []string{"--database-url"}},
		"time without its unit":       {"status --watch=5", []string{`--watch is "5": use a time with its unit, such as 300ms, 2s, 5m or 24h`}},
		"time of an unknown unit":     {"doctor --stuck-after 1d", []string{`--stuck-after is "1d": use a time with its unit`}},
		"no number":                   {"dump --batch many", []string{`--batch is "many": use a whole number`}},
		"neither true nor false":      {"dump --force=perhaps", []string{`--force is "perhaps": use true or false`}},
		"argument":                    {"run extra" + both, []string{`relay run takes flags only, and "extra" is none`}},
		"argument to version":         {"version x", []string{"relay version", `"x"`}},
		"URL as an argument":          {"run " + noDatabase, []string{`"postgres://…"`}},
		"URL in a command's place":    {noDatabase, []string{`"postgres://…"`}},
		"flag with one dash":          {"run -database-url=" + noDatabase, []string{"-database-url", "--database-url, with two dashes"}},
		"unknown flag with one dash":  {"run -url=" + noDatabase, []string{"-url="}},
		"URL in a number's place":     {"run --batch-size " + noDatabase, []string{"--batch-size", "postgres://…"}},
		"table without a name":        {"migrate table", []string{"relay migrate table accounts"}},
		"table's dialect":             {"migrate table x --dialect oracle", []string{`--dialect`, `"oracle"`, "postgres, mysql, sqlite"}},
		"sql's dialect":               {"migrate sql --dialect oracle", []string{`--dialect`, `"oracle"`, "postgres, mysql, sqlite"}},

		"run: all that is missing":     {"run", []string{"--database-url is missing", "LOCKSTEP_DATABASE_URL", "--broker-url is missing", "LOCKSTEP_BROKER_URL"}},
		"consume: all that is missing": {"consume", []string{"--database-url is missing", "--broker-url is missing", "--config is missing", "LOCKSTEP_CONFIG"}},
		"migrate up":                   {"migrate up", []string{"--database-url is missing", "LOCKSTEP_DATABASE_URL"}},
		"migrate down":                 {"migrate down", []string{"--database-url is missing"}},
		"migrate status":               {"migrate status", []string{"--database-url is missing"}},
		"missing and wrong": {"consume --broker-url kafka://user:" + secret + "@host --log-level loud --log-format xml --drain 0s", []string{
			"--database-url is missing", `--broker-url: unknown scheme "kafka"`, "amqp://", "--config is missing",
			`--log-level is "loud": use debug, info, warn or error`, `--log-format is "xml": use text or json`, "--drain is 0s: use 1ms or more",
		}},

		"database's scheme":           {"migrate up --database-url oracle://user:" + secret + "@host/name", []string{`--database-url: unknown scheme "oracle"`, "postgres://", "mysql://", "sqlite:///"}},
		"MySQL without a name":        {"migrate up --database-url mysql://user:" + secret + "@host/", []string{"--database-url", "names no database", "mysql://"}},
		"MySQL's parameter":           {"migrate up --database-url mysql://user:" + secret + "@host/name?sql_mode=x&loc=y", []string{"--database-url", "loc, sql_mode", "tls"}},
		"MySQL's tls":                 {"migrate up --database-url mysql://user:" + secret + "@host/name?tls=maybe", []string{"--database-url", "tls", "skip-verify"}},
		"hash in MySQL's password":    {"migrate up --database-url mysql://user:12#" + secret + "@host/name", []string{"--database-url: not a URL", "%23"}},
		"database without a scheme":   {"migrate up --database-url user:" + secret + "@host/name", []string{"--database-url: the URL has no scheme", "postgres://"}},
		"database as a DSN":           {"migrate up --database-url password=" + secret, []string{"--database-url: the URL has no scheme", "postgres://"}},
		"percent in a password":       {"migrate up --database-url postgres://user:%" + secret + "@host/name", []string{"--database-url: not a URL", "%25"}},
		"slash in a password":         {"migrate up --database-url postgres://user:12/" + secret + "@host/name", []string{"--database-url: not a URL", "%2F"}},
		"hash in a password":          {"migrate up --database-url postgres://user:12#" + secret + "@host/name", []string{"--database-url: not a URL", "%23"}},
		"question mark in a password": {"migrate up --database-url postgres://user:12?" + secret + "@host/name", []string{"--database-url: not a URL", "%3F"}},
		"database with no slashes":    {"migrate up --database-url postgres:user:" + secret + "@host/name", []string{"--database-url: not a URL"}},
		"database with one slash":     {"migrate up --database-url mysql:/user:" + secret + "@host/name", []string{"--database-url: not a URL"}},
		"database's port":             {"migrate up --database-url postgres://user:" + secret + "@host:x/name", []string{"--database-url: not a URL"}},
		"database's parameter":        {"migrate up --database-url postgres://user:" + secret + "@host/name?sslmode=maybe", []string{"--database-url", "sslmode", "require"}},
		"SQLite without a path":       {"migrate up --database-url sqlite://", []string{"--database-url", "names no file", "sqlite:///path"}},
		"SQLite with a parameter":     {"migrate up --database-url sqlite:///x.db?mode=ro", []string{"--database-url", "nothing but a path"}},
		"SQLite in memory":            {"migrate up --database-url sqlite://:memory:", []string{"--database-url", "sqlite:///path"}},

		"broker's scheme":         {"run --database-url " + noDatabase + " --broker-url kafka://user:" + secret + "@host", []string{`--broker-url: unknown scheme "kafka"`, "amqp://", "nats://"}},
		"broker without a scheme": {"run --database-url " + noDatabase + " --broker-url user:" + secret + "@host", []string{"--broker-url: the URL has no scheme", "amqp://"}},
		"broker's password":       {"run --database-url " + noDatabase + " --broker-url amqp://user:%" + secret + "@host/", []string{"--broker-url: not a URL", "%25"}},
		"broker's port":           {"run --database-url " + noDatabase + " --broker-url amqp://user:12/" + secret + "@host/", []string{"--broker-url: not a URL", "%2F"}},
		"broker with one slash":   {"run --database-url " + noDatabase + " --broker-url amqp:/user:" + secret + "@host/", []string{"--broker-url: not a URL"}},
		"database as broker":      {"run --database-url " + noDatabase + " --broker-url postgres://user:12/" + secret + "@host/db", []string{"--broker-url: not a URL", "%2F"}},
		"one of several brokers":  {"run --database-url " + noDatabase + " --broker-url nats://host,nats://user:%" + secret + "@host", []string{"--broker-url: not a URL", "%25"}},
		"broker in memory":        {"run --database-url " + noDatabase + " --broker-url memory://", []string{"--broker-url: memory://", "amqp://"}},
		"consume in memory":       {"consume --database-url " + noDatabase + " --broker-url memory:// --config x", []string{"--broker-url: memory://"}},

		"run's numbers": {
			"run --batch-size 0 --poll 0s --lease 999ms --max-attempts -1 --drain -1s --unroutable lose --unroutable-direct keep" + both,
			[]string{
				"--batch-size is 0: use 1 or more", "--poll is 0s: use 1ms or more", "--lease is 999ms: use 1s or more", "--max-attempts is -1: use 1 or more",
				"--drain is -1s: use 1ms or more", `--unroutable is "lose": use drop, retry or dead`, `--unroutable-direct is "keep": use drop, retry or dead`,
			},
		},
		"run's duration without a unit": {"run --lease 10" + both, []string{"--lease", "10"}},
		"consume's numbers":             {"consume --config x --batch-size -5 --drain 0s" + both, []string{"--batch-size is -5: use 1 or more", "--drain is 0s"}},
		"consume's other settings": {"consume --config x --workers 0 --max-parked -1 --statement-timeout 0s --transaction-timeout 0s --tombstone-retention 0s --dead-letter-ttl -1s" + both, []string{
			"--workers is 0: use 1 or more", "--max-parked is -1", "--statement-timeout is 0s: use 1ms or more", "--transaction-timeout is 0s: use 1ms or more", "--tombstone-retention is 0s", "--dead-letter-ttl is -1s",
		}},
		"demo's flags": {
			"demo --for -1s --rate -3 --log-level loud --replica-url oracle://user:" + secret + "@host --database-url x --broker-url kafka://user:" + secret + "@host",
			[]string{"--for is -1s", "--rate is -3", "--log-level", `--replica-url: unknown scheme "oracle"`, "--database-url: the URL has no scheme", `--broker-url: unknown scheme "kafka"`},
		},
		"demo's argument": {"demo now", []string{"relay demo takes flags only"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := relay(t, args(tt.line)...)
			o.expect(t, 2, tt.want...)
			if o.out != "" {
				t.Errorf("misuse wrote to stdout: %s", o.out)
			}
			if !strings.HasPrefix(o.stderr, "relay: ") {
				t.Errorf("stderr does not begin with the program's name: %s", o.stderr)
			}
		})
	}
}

// An empty name cannot be written in the table above.
func TestEmptyTableName(t *testing.T) {
	t.Parallel()
	relay(t, "migrate", "table", "").expect(t, 2, "name is empty")
}

// The variables stand for absent flags, a flag goes before its variable, even an
// empty one, and a message names where a wrong value came from.
func TestEnvironment(t *testing.T) {
	file := writeFile(t, "lockstep.yaml", "queue: billing\n")
	path := filepath.Join(t.TempDir(), "master.db")
	t.Setenv("LOCKSTEP_DATABASE_URL", " sqlite://"+path+"\n") // as a mounted secret often ends
	mustRelay(t, "migrate", "up")
	if have := mustRelay(t, "migrate", "status"); !strings.Contains(have, "00001_master") {
		t.Errorf("status: %s", have)
	}
	relay(t, "migrate", "up", "--database-url", "oracle://user:"+secret+"@h/n").expect(t, 2, `--database-url: unknown scheme "oracle"`)
	relay(t, "migrate", "up", "--database-url", "").expect(t, 2, "--database-url is missing")

	t.Setenv("LOCKSTEP_DATABASE_URL", "oracle://user:"+secret+"@h/n")
	t.Setenv("LOCKSTEP_BROKER_URL", "kafka://user:"+secret+"@h")
	t.Setenv("LOCKSTEP_CONFIG", file)
	relay(t, "migrate", "status").expect(t, 2, `LOCKSTEP_DATABASE_URL: unknown scheme "oracle"`)
	relay(t, "run").expect(t, 2, `LOCKSTEP_DATABASE_URL: unknown scheme "oracle"`, `LOCKSTEP_BROKER_URL: unknown scheme "kafka"`)
	relay(t, "migrate", "status", "--database-url", "sqlite://"+path).expect(t, 0) // nothing is wrong with what it uses

	t.Setenv("LOCKSTEP_DATABASE_URL", noDatabase)
	t.Setenv("LOCKSTEP_BROKER_URL", noBroker)
	relay(t, "consume").expect(t, 2, file+": replicas is missing")
	relay(t, "consume", "--config", "").expect(t, 2, "--config is missing: give the flag or set LOCKSTEP_CONFIG")
	relay(t, "run").expect(t, 1, "database postgres://user:xxxxx@127.0.0.1:1/name cannot be reached")
	relay(t, "run", "--database-url", "sqlite://"+path).expect(t, 1, "LOCKSTEP_BROKER_URL: ", "127.0.0.1:1")

	// The demo must not find a database in the environment.
	o := relay(t, "demo", "--for", "100ms", "--json")
	o.expect(t, 0)
}

// What the broker's adapter cannot read in the URL is misuse, whichever adapter it is.
func TestUnknownBrokerParameters(t *testing.T) {
	t.Parallel()
	_, postgres := testdb.Postgres(t) // here the server does not know it
	database := "sqlite://" + filepath.Join(t.TempDir(), "master.db")
	mustRelay(t, "migrate", "up", "--database-url", database)
	for _, url := range []string{
		"amqp://user:" + secret + "@127.0.0.1:1/?colour=red",
		"amqp://user:" + secret + "@127.0.0.1:1,127.0.0.1:2/?colour=red",
		"nats://user:" + secret + "@127.0.0.1:1?colour=red",
		postgres + "&colour=red",
		"jetstream+embedded://" + t.TempDir() + "?colour=red",
	} {
		relay(t, "run", "--database-url", database, "--broker-url", url).expect(t, 2, "--broker-url", "colour")
	}
}
