package cli_test

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-go/lockstep/migrations"
)

// Every tool does its work on every database, also where the two sides' are not of one
// kind.
func TestToolsOnEachDatabase(t *testing.T) {
	t.Parallel()
	for name, on := range map[string][2]migrations.Dialect{
		"mysql":             {migrations.MySQL, migrations.MySQL},
		"sqlite":            {migrations.SQLite, migrations.SQLite},
		"postgres":          {migrations.Postgres, migrations.Postgres},
		"postgres to mysql": {migrations.Postgres, migrations.MySQL},
		"mysql to postgres": {migrations.MySQL, migrations.Postgres},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSidesOn(t, on[0], on[1], 6)
			s.dumpsAndLoads()
			s.comparesAndMends()
			s.findsDeleted()
			s.looksAround()
			s.handlesDeadLetters()
			s.saysWhatLacks()
		})
	}
}

func (s *sides) dumpsAndLoads() {
	t := s.t
	t.Helper()
	zipped := filepath.Join(t.TempDir(), "account.dump.gz")
	s.onMaster("", "dump", "--cqrs-id", "account", "--output", zipped).wantOut(t, "6 rows dumped to "+zipped+"\n")
	s.onReplica("", "load", "--input", zipped).wantOut(t, "account: 6 rows loaded, 0 skipped, 0 failed\n")
	piped := s.onMaster("", "dump", "--cqrs-id", "account", "--output", "-", "--filter", `{"id__lte": 3}`)
	s.onReplica(piped.out, "load", "--input", "-", "--clear").wantOut(t, "account: 6 rows cleared, 3 rows loaded, 0 skipped, 0 failed\n")

	// A bad row costs no good one; what is no dump undoes --clear, too.
	bad := strings.Replace(piped.out, `"n2"`, `"bad"`, 1)
	s.onReplica(bad, "load", "--input", "-", "--clear").expect(t, 1, "line 3: consumer: account/2", "1 row of account does not fit")
	s.onReplica(piped.out[:len(piped.out)-10], "load", "--input", "-", "--clear").expect(t, 1, "line 4", "ends within a row", "nothing was changed")
	if n := s.int(s.replica, `SELECT count(*) FROM account_ref`); n != 2 {
		t.Errorf("%d rows are left, want the 2 of before", n)
	}
	s.onReplica("", "load", "--input", zipped, "--clear", "--apart", "--json").wantOut(t, `{"cqrs_id":"account","cleared":2,"applied":6,"skipped":0,"failed":0}`+"\n")
}

func (s *sides) comparesAndMends() {
	t := s.t
	t.Helper()
	s.exec(s.replica, `DELETE FROM account_ref WHERE id = 2`)
	s.exec(s.replica, `UPDATE account_ref SET title = 'other' WHERE id = 3`)
	s.exec(s.master, `UPDATE accounts SET cqrs_revision = 4 WHERE id = 4`)
	s.exec(s.replica, `INSERT INTO account_ref SELECT 9, title, cqrs_revision, cqrs_updated FROM account_ref WHERE id = 1`)
	o := run(t, s.env, "", "diff", "--cqrs-id", "account", "--master-url", s.masterURL, "--replica-url", s.replicaURL, "--fields")
	o.expect(t, 0, "relay diff sync", `relay sync --cqrs-id account --filter '{"pk__in": […]}'`, "relay deleted sync")
	o.wantOut(t, `missing  2  master has revision 1
fields   3  master has revision 1, replica 1
         3  name: master "n3", replica "other"
revision 4  master has revision 4, replica 1
extra    9  replica has revision 1
account: 6 rows compared, 4 differ: 1 missing, 1 extra, 1 of another revision, 1 with other values
`)
	one := s.onMaster("", "diff", "master", "--cqrs-id", "account")
	two := s.onReplica(one.out, "diff", "replica")
	two.expect(t, 0, "account: 2 of 6 rows differ")
	s.onMaster(two.out, "diff", "sync", "--json").wantOut(t, `{"cqrs_id":"account","rows":2,"found":2}`+"\n")
	s.onMaster("", "sync", "--cqrs-id", "account", "--filter", `{"name__istartswith": "N", "id__range": [5, 6]}`, "--rate", "1000/s").wantOut(t, "2 rows synced\n")
	if n := s.int(s.master, `SELECT count(*) FROM outbox`); n != 4 {
		t.Errorf("%d events are in the outbox, want 4", n)
	}
}

func (s *sides) findsDeleted() {
	t := s.t
	t.Helper()
	all := s.onReplica("", "deleted", "replica", "--cqrs-id", "account")
	gone := s.onMaster(all.out, "deleted", "master")
	gone.expect(t, 0, "account: 1 of 6 rows are deleted in the master")
	s.onReplica(gone.out, "deleted", "sync").wantOut(t, "1 of 1 row deleted\n")
	s.onReplica(gone.out, "deleted", "sync", "--json").wantOut(t, `{"cqrs_id":"account","rows":1,"found":0}`+"\n") // it is done already
	if n := s.int(s.replica, `SELECT count(*) FROM account_ref WHERE id = 9`); n != 0 {
		t.Error("row 9 is still in the replica")
	}
}

// looksAround asks status, trace and doctor.
func (s *sides) looksAround() {
	t := s.t
	t.Helper()
	o := s.onMaster("", "status", "--json")
	o.expect(t, 0)
	var st shownStatus
	if err := json.Unmarshal([]byte(o.out), &st); err != nil || st.Outbox == nil || st.Outbox.Pending != 4 {
		t.Errorf("status: %v, want 4 pending", o)
	}
	o = s.onMaster("", "trace", "account", "4", "--replica-url", s.replicaURL)
	o.expect(t, 0)
	for _, want := range []string{"master       revision 4, changed 2", "pending      id ", "SYNC revision 4", "replica      revision 1, changed 2"} {
		if !strings.Contains(o.out, want) {
			t.Errorf("trace lacks %q: %v", want, o)
		}
	}
	d := diagnose(t, "--config", strings.TrimPrefix(s.env[0], "LOCKSTEP_CONFIG="), "--database-url", s.masterURL, "--replica-url", s.replicaURL)
	for _, check := range []string{"migrations", "columns", "permissions", "clock"} {
		d.finds(t, check, "ok", "")
	}
	d.finds(t, "relay", "wrong", "4 messages are pending, and no relay holds the lease")
}

func (s *sides) handlesDeadLetters() {
	t := s.t
	t.Helper()
	s.exec(s.master, "INSERT INTO outbox_dead SELECT id + 100, topic, "+s.quoted("key")+", payload, metadata, created_at, 'too large', 3, created_at FROM outbox")
	s.exec(s.master, `DELETE FROM outbox`)
	list := s.onMaster("", "dead-letters", "list", "--outbox", "--key", "4", "--reason", "large")
	if list.code != 0 || strings.Count(list.out, "\n") != 1 || !strings.Contains(list.out, "account/4  3 attempts  too large") {
		t.Errorf("list: %v", list)
	}
	id, _, _ := strings.Cut(list.out, " ")
	if show := s.onMaster("", "dead-letters", "show", "--outbox", id); show.code != 0 || !strings.Contains(show.out, `"payload":"{\"signal_type\":\"SYNC\"`) {
		t.Errorf("show: %v", show)
	}
	s.onMaster("", "dead-letters", "retry", "--outbox", "--key", "4").wantOut(t, "1 dead letter put back\n")
	s.onMaster("", "dead-letters", "purge", "--outbox", "--yes").wantOut(t, "3 dead letters purged\n")
	if n := s.int(s.master, `SELECT count(*) FROM outbox`); n != 1 {
		t.Errorf("%d events are back, want 1", n)
	}
}

// saysWhatLacks mistakes one side for the other, and clears what others refer to.
func (s *sides) saysWhatLacks() {
	t := s.t
	t.Helper()
	name := func(url string) string { // without its password and what else may be one
		if path, ok := strings.CutPrefix(url, "sqlite://"); ok {
			return path
		}
		_, at, _ := strings.Cut(url, "@")
		at, _, _ = strings.Cut(at, "?")
		return "@" + at
	}
	diff := func(master, replica string) outcome {
		return run(t, s.env, "", "diff", "--cqrs-id", "account", "--master-url", master, "--replica-url", replica)
	}
	diff(s.replicaURL, s.masterURL).expect(t, 1, "relay: database ", name(s.replicaURL)+" (--master-url): outbox: entity account: table accounts: no such table: create it")
	diff(s.masterURL, s.masterURL).expect(t, 1, "relay: database ", name(s.masterURL)+` (--replica-url): consumer: entity "account": table account_ref: no such table`)
	s.onReplica("", "dump", "--cqrs-id", "account", "--output", "-").expect(t, 1, "relay: database ", name(s.replicaURL)+": outbox: entity account: table accounts: no such table")
	dump := s.onMaster("", "dump", "--cqrs-id", "account", "--output", "-").out
	s.onMaster(dump, "load", "--input", "-").expect(t, 1, "relay: database ", name(s.masterURL)+": consumer: ", "account_ref: no such table", "nothing was changed")

	s.onReplica(dump, "load", "--input", "-").expect(t, 0)
	s.exec(s.replica, `CREATE TABLE notes (id bigint PRIMARY KEY, account_id bigint NOT NULL, FOREIGN KEY (account_id) REFERENCES account_ref (id))`)
	s.exec(s.replica, `INSERT INTO notes VALUES (1, 1)`)
	s.onReplica(dump, "load", "--input", "-", "--clear").expect(t, 1, "rows of another table refer to these: load without --clear", "relay deleted", "nothing was changed")
	s.exec(s.replica, `DROP TABLE notes`)
	s.exec(s.replica, `CREATE TABLE notes (id bigint PRIMARY KEY, account_id bigint NOT NULL, FOREIGN KEY (account_id) REFERENCES account_ref (id) ON DELETE RESTRICT)`)
	s.exec(s.replica, `INSERT INTO notes VALUES (1, 1)`)
	s.onReplica(dump, "load", "--input", "-", "--clear", "--apart").expect(t, 1, "load without --clear", "0 rows cleared and 0 loaded before that stay so")
	s.onReplica(dump, "load", "--input", "-").expect(t, 0)
	if n := s.int(s.replica, `SELECT count(*) FROM notes`); n != 1 {
		t.Errorf("%d notes are left, want 1", n)
	}
}

// quoted is a column's name in the master's SQL.
func (s *sides) quoted(name string) string {
	if strings.HasPrefix(s.masterURL, "mysql:") {
		return "`" + name + "`"
	}
	return `"` + name + `"`
}
