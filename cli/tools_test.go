package cli_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/internal/testdb"
)

// run runs the command as a process to its end, with what it reads.
func run(t *testing.T, env []string, stdin string, args ...string) outcome {
	t.Helper()
	binary, err := relayBinary()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("relay %s: %v", strings.Join(args, " "), err)
	}
	o := outcome{code: cmd.ProcessState.ExitCode(), out: out.String(), stderr: stderr.String()}
	noSecret(t, o.out+o.stderr)
	return o
}

// wantOut checks that a command was done and what it printed.
func (o outcome) wantOut(t *testing.T, want string) {
	t.Helper()
	o.expect(t, 0)
	if diff := cmp.Diff(want, o.out); diff != "" {
		t.Errorf("printed (-want +have):\n%s\n%v", diff, o)
	}
}

// A SYNC to a queue that the broker does not have is refused, unless it is meant.
func TestSyncAsksForTheQueue(t *testing.T) {
	t.Parallel()
	s := newSides(t, 2)
	at := embedded(t)
	sync := func(more ...string) outcome {
		return s.onMaster("", append([]string{"sync", "--cqrs-id", "account", "--all", "--queue", "billing"}, more...)...)
	}
	sync().expect(t, 0, "queue billing is not looked for: no --broker-url is given")
	sync("--broker-url", at).expect(t, 1, "billing", "correct --queue", "start the replica", "--yes")
	sync("--broker-url", noBroker).expect(t, 1, "--yes goes on without asking")
	if n := s.int(s.master, `SELECT count(*) FROM outbox`); n != 2 {
		t.Errorf("%d events in the outbox, want those of the first run", n)
	}
	sync("--broker-url", at, "--yes").wantOut(t, "2 rows synced\n")
	b, err := broker.Open(t.Context(), at, broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Bind(t.Context(), "billing", "account"), b.Close()); err != nil {
		t.Fatal(err)
	}
	sync("--broker-url", at).wantOut(t, "2 rows synced\n")

	// So is one that comes with a comparison, by its header or by the flag.
	differ := func(queue string, more ...string) outcome {
		return s.onMaster("account,2026-01-02 03:04:05+00:00,"+queue+"\n[1]\n", append([]string{"diff", "sync"}, more...)...)
	}
	differ("nobody").expect(t, 0, "queue nobody is not looked for: no --broker-url is given")
	differ("nobody", "--broker-url", at).expect(t, 1, "nobody", "correct --queue", "start the replica", "--yes")
	differ("billing", "--broker-url", at, "--queue", "nobody").expect(t, 1, "nobody", "correct --queue")
	differ("nobody", "--broker-url", at, "--yes").wantOut(t, "1 of 1 row synced\n")
	differ("nobody", "--broker-url", at, "--queue", "billing").wantOut(t, "1 of 1 row synced\n")
	differ("None", "--broker-url", at).wantOut(t, "1 of 1 row synced\n")
}

func TestSyncCommand(t *testing.T) {
	t.Parallel()
	s := newSides(t, 5)
	s.onMaster("", "sync", "--cqrs-id", "account", "--filter", `{"id__in": [1, 2]}`, "--queue", "billing", "--force").wantOut(t, "2 rows synced\n")
	if n := s.int(s.master, `SELECT count(*) FROM outbox WHERE topic = 'cqrs.billing.account' AND metadata ->> 'lockstep-force' = '1'`); n != 2 {
		t.Errorf("%d forced events go to billing, want 2", n)
	}
	o := s.onMaster("", "sync", "--cqrs-id", "account")
	o.wantOut(t, "0 rows synced\n")
	o.expect(t, 0, "nothing is selected: give --filter, or --all")
	o = s.onMaster("", "sync", "--cqrs-id", "account", "--filter", `{"id": 999}`)
	o.wantOut(t, "0 rows synced\n")
	o.expect(t, 0, `no row of account matches {"id": 999}: a deleted row is not there to be synced`)
	s.onMaster("", "sync", "--cqrs-id", "account", "--all", "--json").wantOut(t, `{"cqrs_id":"account","rows":5,"position":"5"}`+"\n")

	for name, tt := range map[string]struct {
		args []string
		want []string
	}{
		"no entity":      {nil, []string{"--cqrs-id is missing"}},
		"unknown entity": {[]string{"--cqrs-id", "nobody", "--all"}, []string{`unknown entity "nobody"`, "account"}},
		"unknown field":  {[]string{"--cqrs-id", "account", "--filter", `{"nome__gt": 1}`}, []string{`"nome"`, `"gt"`}},
		"unknown lookup": {[]string{"--cqrs-id", "account", "--filter", `{"id__regex": 1}`}, []string{`"id"`, `"regex"`}},
		"not JSON":       {[]string{"--cqrs-id", "account", "--filter", `id=1`}, []string{"not a JSON object"}},
		"value":          {[]string{"--cqrs-id", "account", "--filter", `{"id": "x"}`}, []string{"does not fit"}},
		"all and filter": {[]string{"--cqrs-id", "account", "--filter", `{}`, "--all"}, []string{"--all and --filter"}},
		"rate":           {[]string{"--cqrs-id", "account", "--all", "--rate", "fast"}, []string{`--rate is "fast"`}},
		"several":        {[]string{"--rate", "0", "--batch", "0"}, []string{"--rate", "--batch", "--cqrs-id"}},
		"queue":          {[]string{"--cqrs-id", "account", "--all", "--queue", "a b"}, []string{"--queue"}},
	} {
		t.Run(name, func(t *testing.T) { s.onMaster("", append([]string{"sync"}, tt.args...)...).expect(t, 2, tt.want...) })
	}
	run(t, nil, "", "sync", "--cqrs-id", "account", "--all").expect(t, 2, "--database-url is missing", "--config is missing")
	run(t, s.env, "", "sync", "--cqrs-id", "account", "--all", "--database-url", noDatabase).expect(t, 1, "cannot be reached")
}

// A sync that is interrupted says so, and goes on where it was with --resume.
func TestSyncResumesCommand(t *testing.T) {
	t.Parallel()
	const rows = 150 // so many that they are not all sent while the machine halts
	s := newSides(t, rows)
	env := append(s.env, "LOCKSTEP_DATABASE_URL="+s.masterURL)
	p := start(t, env, "sync", "--cqrs-id", "account", "--all", "--rate", "10/s", "--batch", "5")
	eventually(t, func() string {
		if n := s.int(s.master, `SELECT count(*) FROM outbox`); n < 10 {
			return fmt.Sprintf("%d rows are sent", n)
		}
		return ""
	})
	p.signal(os.Interrupt)
	if code, _ := p.exit(patience); code != 1 || !strings.Contains(p.log.String(), "--resume") {
		t.Fatalf("exit code %d, want 1 and a word about --resume", code)
	}
	sent := s.int(s.master, `SELECT count(*) FROM outbox`)
	if sent == rows {
		t.Fatal("nothing is left to resume: the test proves nothing")
	}
	o := s.onMaster("", "sync", "--cqrs-id", "account", "--all", "--resume")
	o.wantOut(t, fmt.Sprintf("%d rows synced\n", rows-sent))
	o.expect(t, 0, "resuming behind key")
	if n := s.int(s.master, `SELECT count(DISTINCT key) FROM outbox`); n != rows {
		t.Errorf("%d rows were sent in both runs, want %d", n, rows)
	}
	o = s.onMaster("", "sync", "--cqrs-id", "account", "--all", "--resume") // it was done: from the beginning
	o.wantOut(t, fmt.Sprintf("%d rows synced\n", rows))
	o.expect(t, 0, "was not broken off", "first row")

	// Nothing was sent, so there is nothing to go on with.
	o = s.onMaster("", "sync", "--cqrs-id", "account", "--all", "--from", "abc")
	o.expect(t, 2, "does not fit")
	if strings.Contains(o.stderr, "--resume") {
		t.Errorf("a sync that has sent nothing is to be resumed: %s", o.stderr)
	}
}

// A difference shows its key as `relay trace` takes it, and a replica that is ahead of its
// master another remedy.
func TestDiffOfSeveralColumns(t *testing.T) {
	t.Parallel()
	master, masterURL := testdb.Postgres(t)
	replica, replicaURL := testdb.Postgres(t)
	for db, revision := range map[*sql.DB]int{master: 1, replica: 7} {
		_, err := db.ExecContext(t.Context(), fmt.Sprintf(`CREATE TABLE shelves (region text, number int,
			cqrs_revision bigint NOT NULL DEFAULT %d, cqrs_updated timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (region, number));
			INSERT INTO shelves VALUES ('eu', 7)`, revision))
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, url := range []string{masterURL, replicaURL} {
		mustRelay(t, "migrate", "up", "--database-url", url)
	}
	config := writeFile(t, "lockstep.yaml", `
entities: {shelf: {table: shelves, key: [region, number]}}
queue: billing
replicas: {shelf: {table: shelves, key: [region, number]}}
`)
	o := relay(t, "diff", "--cqrs-id", "shelf", "--config", config, "--master-url", masterURL, "--replica-url", replicaURL)
	o.expect(t, 0, "relay sync --force --cqrs-id shelf")
	if !strings.Contains(o.out, `revision ["eu","7"]  master has revision 1, replica 7`) {
		t.Errorf("printed: %v", o)
	}
}

func TestDumpAndLoadCommands(t *testing.T) {
	t.Parallel()
	s := newSides(t, 3)
	folder := t.TempDir()
	file := filepath.Join(folder, "account.dump")
	s.onMaster("", "dump", "--cqrs-id", "account", "--output", file).wantOut(t, "3 rows dumped to "+file+"\n")
	content, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(string(content), "account\n{\"id\":1,\"name\":\"n1\",") || strings.HasSuffix(string(content), "\n") {
		t.Fatalf("the dump is %q (%v)", content, err)
	}
	s.onMaster("", "dump", "--cqrs-id", "account", "--output", file).expect(t, 1, file+" exists", "--force")
	s.onMaster("", "dump", "--cqrs-id", "account", "--output", file, "--force", "--json").wantOut(t, fmt.Sprintf(`{"cqrs_id":"account","rows":3,"file":%q}`+"\n", file))
	piped := s.onMaster("", "dump", "--cqrs-id", "account", "--output", "-")
	piped.wantOut(t, string(content))

	s.onReplica(piped.out, "load", "--input", "-").wantOut(t, "account: 3 rows loaded, 0 skipped, 0 failed\n")
	s.onReplica("", "load", "--input", file, "--json").wantOut(t, `{"cqrs_id":"account","cleared":0,"applied":0,"skipped":3,"failed":0}`+"\n")
	s.onReplica("", "load", "--input", file, "--clear", "--apart").wantOut(t, "account: 3 rows cleared, 3 rows loaded, 0 skipped, 0 failed\n")

	zipped := file + ".gz"
	s.onMaster("", "dump", "--cqrs-id", "account", "--filter", `{"id": 2}`, "--output", zipped).expect(t, 0)
	f, err := os.Open(zipped)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := gzip.NewReader(f); err != nil {
		t.Errorf("%s is not compressed: %v", zipped, err)
	}
	s.onReplica("", "load", "--input", zipped, "--clear").wantOut(t, "account: 3 rows cleared, 1 row loaded, 0 skipped, 0 failed\n")

	compressed, err := os.ReadFile(zipped)
	if err != nil {
		t.Fatal(err)
	}
	s.onReplica(string(compressed), "load", "--input", "-").expect(t, 1, "compressed by gzip", "gunzip")
	s.onReplica(string(compressed), "diff", "replica").expect(t, 1, "compressed by gzip")
	unnamed := filepath.Join(folder, "unnamed")
	if err := os.WriteFile(unnamed, compressed, 0o600); err != nil {
		t.Fatal(err)
	}
	s.onReplica("", "load", "--input", unnamed).expect(t, 1, "compressed by gzip", ".gz")

	s.exec(s.master, `UPDATE accounts SET name = 'bad', cqrs_revision = 2 WHERE id = 2`)
	bad := s.onMaster("", "dump", "--cqrs-id", "account", "--output", "-").out
	o := s.onReplica(bad+"\nrubbish", "load", "-i", "-")
	o.expect(t, 1, "line 3: consumer: account/2", "line 5:", "2 rows of account do not fit")
	if o.out != "account: 2 rows loaded, 0 skipped, 2 failed\n" {
		t.Errorf("printed %q", o.out)
	}
	s.onReplica("", "load", "-i", "-").expect(t, 1, "it is empty")
	s.onReplica("nobody\n{}", "load", "-i", "-").expect(t, 2, "unknown entity", "nobody", "this is no dump")
	s.onReplica("", "load", "-i", filepath.Join(folder, "none")).expect(t, 1, "no such file")
	s.onReplica("", "load").expect(t, 2, "--input is missing")
	s.onReplica("", "load", "-i", file, "--batch", "0").expect(t, 2, "--batch")
	left, _ := filepath.Glob(filepath.Join(folder, "*.part"))
	if len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestDiffCommands(t *testing.T) {
	t.Parallel()
	s := newSides(t, 6)
	dump := s.onMaster("", "dump", "--cqrs-id", "account", "-o", "-").out
	s.onReplica(dump, "load", "-i", "-", "--quiet").expect(t, 0)
	s.exec(s.replica, `DELETE FROM account_ref WHERE id = 2`)
	s.exec(s.replica, `UPDATE account_ref SET title = 'other' WHERE id = 3`)
	s.exec(s.master, `UPDATE accounts SET cqrs_revision = 4 WHERE id = 4`)
	s.exec(s.master, `DELETE FROM accounts WHERE id = 6`)

	one := s.onMaster("", "diff", "master", "--cqrs-id", "account", "--batch", "3")
	if _, lines, _ := strings.Cut(one.out, "\n"); lines != "[[1,1],[2,1],[3,1]]\n[[4,4],[5,1]]\n" {
		t.Errorf("diff master: %v", one)
	}
	two := s.onReplica(one.out, "diff", "replica")
	two.expect(t, 0, "account: 2 of 5 rows differ")
	if header, lines, _ := strings.Cut(two.out, "\n"); !strings.HasSuffix(header, ",billing") || lines != "[2]\n[4]\n" {
		t.Errorf("diff replica: %v", two)
	}
	s.onMaster(two.out, "diff", "sync").wantOut(t, "2 of 2 rows synced\n")
	if n := s.int(s.master, `SELECT count(*) FROM outbox WHERE topic = 'cqrs.billing.account' AND key IN ('2', '4')`); n != 2 {
		t.Errorf("%d events go to billing, want 2", n)
	}
	s.onMaster(two.out, "diff", "sync", "--json", "--queue", "other", "--rate", "1000/s").wantOut(t, `{"cqrs_id":"account","rows":2,"found":2}`+"\n")

	all := s.onReplica("", "deleted", "replica", "--cqrs-id", "account")
	gone := s.onMaster(all.out, "deleted", "master")
	gone.expect(t, 0, "account: 1 of 5 rows are deleted in the master")
	if _, lines, _ := strings.Cut(gone.out, "\n"); lines != "[6]\n" {
		t.Errorf("deleted master: %v", gone)
	}

	round := func(args ...string) outcome {
		return run(t, s.env, "", append([]string{"diff", "--cqrs-id", "account", "--master-url", s.masterURL, "--replica-url", s.replicaURL}, args...)...)
	}
	round("--fields").wantOut(t, `missing  2  master has revision 1
fields   3  master has revision 1, replica 1
         3  name: master "n3", replica "other"
revision 4  master has revision 4, replica 1
extra    6  replica has revision 1
account: 5 rows compared, 4 differ: 1 missing, 1 extra, 1 of another revision, 1 with other values
`)
	round("--exit-code").expect(t, 1, "3 rows of account differ")
	printed := round("--json")
	printed.expect(t, 0, "missing or of another revision", "extra: `relay deleted replica") // what to do is no result
	for line := range strings.Lines(printed.out) {
		if !json.Valid([]byte(line)) {
			t.Errorf("diff --json printed %s", line)
		}
	}
	s.onReplica(gone.out, "deleted", "sync").wantOut(t, "1 of 1 row deleted\n")
	have := round("--json", "--filter", `{"id__gte": 5}`)
	var summary map[string]any
	if err := json.Unmarshal([]byte(have.out), &summary); err != nil || summary["rows"] != 1.0 || summary["missing"] != 0.0 {
		t.Errorf("diff --json: %v", have)
	}

	s.onReplica("", "diff", "replica").expect(t, 0, "the step before selected nothing")
	s.onReplica("rubbish", "diff", "replica").expect(t, 1, "line 1", "header")
	s.onMaster("account,2026-01-02 03:04:05+00:00\n[1]", "diff", "sync").expect(t, 1, "names no queue")
	s.onMaster("", "diff", "master", "--cqrs-id", "account", "--filter", `{"id": 99}`).expect(t, 0, "no row is selected")
	s.onMaster("", "diff", "--cqrs-id", "account").expect(t, 2, "--master-url is missing", "--replica-url is missing")
	s.onMaster("", "deleted").expect(t, 2, "which step?")
	s.onReplica("nobody,2026-01-02 03:04:05+00:00\n[1]", "deleted", "sync").expect(t, 2, `unknown entity "nobody"`)
}

// Progress is plain lines where there is no terminal, and nothing when quiet.
func TestProgressOfCommands(t *testing.T) {
	t.Parallel()
	s := newSides(t, 60)
	for _, quiet := range []bool{false, true} {
		o := s.onMaster("", "sync", "--cqrs-id", "account", "--all", "--rate", "10/s", fmt.Sprintf("--quiet=%t", quiet))
		o.wantOut(t, "60 rows synced\n")
		if said := strings.Contains(o.stderr, "of 60 rows, ") && strings.Contains(o.stderr, "rows/s") && strings.Contains(o.stderr, " left"); said == quiet {
			t.Errorf("quiet %t: stderr is %q", quiet, o.stderr)
		}
	}
}
