package cli_test

import (
	"strings"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/migrations"
)

// remedied demands a finding that is wrong, its remedy, and exit code 1.
func (d diagnosis) remedied(t *testing.T, check, what, remedy string) {
	t.Helper()
	if d.code != 1 {
		t.Errorf("exit code %d, want 1", d.code)
	}
	for _, f := range d.Findings {
		if f.Check == check && f.Level == "wrong" && strings.Contains(f.What, what) && strings.Contains(f.Remedy, remedy) {
			return
		}
	}
	t.Errorf("no wrong %s with %q and the remedy %q:\n%s", check, what, remedy, d.out)
}

// A database whose clock is an hour ahead, and half a minute, for the answer is not exact: its schema has a clock of its own.
func TestDoctorFindsAnotherClock(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	p.exec(p.master, `CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$SELECT pg_catalog.clock_timestamp() + interval '1 hour 30 seconds'$$`)
	before, after, found := strings.Cut(p.masterURL, "search_path=")
	if !found {
		t.Fatal("the test's URL names no schema")
	}
	schema, rest, more := strings.Cut(after, "&")
	url := before + "search_path=" + schema + "%2Cpg_catalog"
	if more {
		url += "&" + rest
	}
	diagnose(t, "--database-url", url).remedied(t, "clock", "the database's is 1h0m", "time server")
	diagnose(t, "--database-url", p.masterURL).finds(t, "clock", "ok", "from this machine's")
}

// A broker that confirms more slowly than the relay's lease allows.
func TestDoctorFindsALeaseShorterThanAPublish(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	relaying := p.run("--lease", "1s")
	eventually(t, func() string {
		if s := p.status("--database-url", p.masterURL); s.Outbox == nil || len(s.Outbox.Leases) == 0 || !s.Outbox.Leases[0].Held {
			return "no lease is held"
		}
		return ""
	})
	between := newProxy(t, p.brokerURL)
	between.slow(300 * time.Millisecond)
	var d diagnosis
	eventually(t, func() string { // on a busy machine so short a lease may have lapsed for a moment
		d = diagnose(t, "--database-url", p.masterURL, "--broker-url", between.url)
		for _, f := range d.Findings {
			if f.Check == "lease" {
				return ""
			}
		}
		return "no lease was held: " + d.out
	})
	d.remedied(t, "lease", "another relay may take over", "a longer --lease")
	relaying.exitsCleanly()
}

// Each fault that the other tests make has a remedy, too, and makes the exit code 1.
func TestDoctorNamesRemedies(t *testing.T) {
	t.Parallel()
	p := newPipeline(t)
	p.save(1, 1)
	p.exec(p.master, `UPDATE outbox SET created_at = created_at - interval '1 hour'`, `REVOKE DELETE ON outbox FROM current_user`)
	p.exec(p.replica, `DELETE FROM lockstep_db_version WHERE version_id = 3`)
	d := p.doctor("--management-url", bindings(t, "other"))
	d.remedied(t, "permissions", "DELETE on outbox", "GRANT")
	d.remedied(t, "stuck", "the oldest for 1h0m", "the relay's log")
	d.remedied(t, "relay", "no relay holds the lease", "start `relay run`")
	d.remedied(t, "routes", "no queue is bound to entity "+p.entity, "start a replica that follows it")
	d.remedied(t, "migrations", "not applied: 00003", "run `relay migrate up`")

	// One file for both sides, and only the master's database.
	d = diagnose(t, "--config", p.config, "--database-url", p.masterURL)
	d.remedied(t, "columns", "no such table", "--replica-url")
}

// A transaction that stays open is found on MariaDB, too, where the account may see it.
func TestDoctorFindsAnOldTransactionOnMySQL(t *testing.T) {
	t.Parallel()
	s := newSidesOn(t, migrations.MySQL, migrations.SQLite, 1)
	tx, err := s.master.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(t.Context(), `UPDATE accounts SET name = 'open'`); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		d := diagnose(t, "--database-url", s.masterURL, "--stuck-after", "1s")
		for _, f := range d.Findings {
			if f.Check == "vacuum" && (f.Level == "wrong" && strings.Contains(f.What, "connection ") || strings.Contains(f.Remedy, "grant PROCESS")) {
				return ""
			}
		}
		return "the transaction is not named: " + d.out
	})
}
