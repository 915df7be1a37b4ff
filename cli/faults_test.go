package cli_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/migrations"
)

// A file that is cut off, damaged, or not what its name says is refused, and what was
// in the table stays.
func TestLoadOfADamagedFile(t *testing.T) {
	t.Parallel()
	s := newSides(t, 3000)
	folder := t.TempDir()
	whole := filepath.Join(folder, "account.dump.gz")
	s.onMaster("", "dump", "--cqrs-id", "account", "-o", whole).expect(t, 0)
	content, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	damaged := bytes.Clone(content)
	damaged[len(damaged)-6] ^= 0xff // of the checksum
	s.onReplica("", "load", "-i", whole).expect(t, 0)
	for name, tt := range map[string]struct {
		content []byte
		want    string
	}{
		"half":       {content[:len(content)/2], "the file is cut off"},
		"begun":      {content[:4], "the file is cut off"},
		"nothing":    {nil, "the file is cut off"},
		"damaged":    {damaged, "the file is damaged"},
		"plain text": {[]byte("account\n{}"), "the file is damaged, or not compressed"},
	} {
		path := filepath.Join(folder, strings.ReplaceAll(name, " ", "-")+".gz")
		if err := os.WriteFile(path, tt.content, 0o600); err != nil {
			t.Fatal(err)
		}
		o := s.onReplica("", "load", "-i", path, "--clear", "--batch", "100")
		o.expect(t, 1, "--input "+path+": ", tt.want)
		if n := s.int(s.replica, `SELECT count(*) FROM account_ref`); n != 3000 {
			t.Fatalf("%s: %d rows are left, want the 3000 of before", name, n)
		}
	}
}

// What cannot be written is told, and leaves no file under the name, nor beside it.
func TestDumpThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	s := newSides(t, 3000)
	binary, err := relayBinary()
	if err != nil {
		t.Fatal(err)
	}
	shell := func(line string) outcome {
		var out, stderr bytes.Buffer
		cmd := exec.CommandContext(t.Context(), "bash", "-c", line, binary)
		cmd.Env = append(os.Environ(), append(s.env, "LOCKSTEP_DATABASE_URL="+s.masterURL)...)
		cmd.Stdout, cmd.Stderr = &out, &stderr
		_ = cmd.Run() // its code is read from the state
		return outcome{cmd.ProcessState.ExitCode(), out.String(), stderr.String()}
	}
	shell(`$0 dump --cqrs-id account -o - > /dev/full`).expect(t, 1, "no space left on device")
	shell(`$0 diff master --cqrs-id account > /dev/full`).expect(t, 1, "no space left on device")

	// A reader that has enough ends the writer, as it does any command.
	o := shell(`$0 dump --cqrs-id account -o - --quiet | head -1; echo ${PIPESTATUS[0]}`)
	o.wantOut(t, fmt.Sprintf("account\n%d\n", 128+int(syscall.SIGPIPE)))

	folder := t.TempDir()
	s.onMaster("", "dump", "--cqrs-id", "account", "-o", filepath.Join(folder, "none", "account.dump")).expect(t, 1, "no such file or directory")
	left, err := filepath.Glob(filepath.Join(folder, "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// Interrupted, each long command ends soon and leaves what can be gone on with.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	for _, d := range []migrations.Dialect{migrations.Postgres, migrations.MySQL, migrations.SQLite} {
		t.Run(string(d), func(t *testing.T) {
			t.Parallel()
			s := newSidesOn(t, d, d, 50)
			dump := s.onMaster("", "dump", "--cqrs-id", "account", "-o", "-").out
			s.onReplica(dump, "load", "-i", "-").expect(t, 0)
			s.exec(s.replica, `UPDATE account_ref SET title = 'mine'`)
			_, row, _ := strings.Cut(dump, "\n")
			row, _, _ = strings.Cut(row, "\n")
			// long is lines that fill every buffer on the way: when they are written, the
			// command is at work.
			long := func(line string) string { return strings.Repeat(line+strings.Repeat(" ", 100_000)+"\n", 5) }
			const header = "account,2020-01-02 03:04:05+00:00,billing\n"
			for _, tt := range []struct {
				on, begin, args string
			}{
				{s.replicaURL, dump + "\n" + long(row), "load --input - --clear --batch 10"},
				{s.replicaURL, header + long("[[1,1]]"), "diff replica"},
				{s.masterURL, header + long("[1]"), "diff sync"},
				{s.masterURL, header + long("[1]"), "deleted master"},
				{s.replicaURL, header + long("[1]"), "deleted sync"},
			} {
				p, in := startReading(t, append(s.env, "LOCKSTEP_DATABASE_URL="+tt.on), args(tt.args)...)
				if _, err := in.WriteString(tt.begin); err != nil {
					t.Fatal(err)
				}
				p.signal(os.Interrupt)
				if code, by := p.exit(patience); code != 1 || by != 0 || !strings.Contains(p.log.String(), "relay: interrupted: ") {
					t.Errorf("%s: exit code %d (%v), %q; want 1 and that it was interrupted", tt.args, code, by, p.log.String())
				}
			}
			if n := s.int(s.replica, `SELECT count(*) FROM account_ref WHERE title = 'mine'`); n != 50 {
				t.Errorf("%d rows are as they were, want 50", n)
			}
		})
	}
}

// A statement that is interrupted may end with an error of the server's.
func TestInterruptedStatement(t *testing.T) {
	t.Parallel()
	s := newSidesOn(t, migrations.Postgres, migrations.Postgres, 1)
	dump := filepath.Join(t.TempDir(), "account.dump")
	s.onMaster("", "dump", "--cqrs-id", "account", "-o", dump).expect(t, 0)
	lock, err := s.replica.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lock.Rollback() }()
	if _, err := lock.ExecContext(t.Context(), `LOCK TABLE account_ref IN EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	p := start(t, append(s.env, "LOCKSTEP_DATABASE_URL="+s.replicaURL), "load", "--input", dump)
	eventually(t, func() string {
		if s.int(s.replica, `SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'account_ref'::regclass`) == 0 {
			return "load does not wait for the table"
		}
		return ""
	})
	p.signal(os.Interrupt)
	if code, by := p.exit(patience); code != 1 || by != 0 || !strings.Contains(p.log.String(), "relay: interrupted: ") {
		t.Errorf("exit code %d (%v), %q; want 1 and that it was interrupted", code, by, p.log.String())
	}
}

// startReading is start with a pipe for standard input that stays open.
func startReading(t *testing.T, env []string, args ...string) (*process, *os.File) {
	t.Helper()
	binary, err := relayBinary()
	if err != nil {
		t.Fatal(err)
	}
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(binary, args...), done: make(chan struct{})}
	p.cmd.Stdin = in
	p.begin(env)
	_ = in.Close()
	t.Cleanup(func() { _ = out.Close() })
	return p, out
}

// A dump that is interrupted leaves no file.
func TestInterruptedDump(t *testing.T) {
	t.Parallel()
	s := newSides(t, 200_000)
	between := newProxy(t, s.masterURL)
	between.slow(20 * time.Millisecond) // so slow that it is not done while the machine halts
	folder := t.TempDir()
	for _, name := range []string{"account.dump", "account.dump.gz"} {
		p := start(t, append(s.env, "LOCKSTEP_DATABASE_URL="+between.url), "dump", "--cqrs-id", "account", "-o", filepath.Join(folder, name))
		eventually(t, func() string {
			if about, err := os.Stat(filepath.Join(folder, name+".part")); err != nil || about.Size() == 0 {
				return fmt.Sprintf("nothing is written: %v", err)
			}
			return ""
		})
		p.signal(os.Interrupt)
		if code, _ := p.exit(patience); code != 1 {
			t.Errorf("%s: exit code %d, want 1", name, code)
		}
	}
	if left, err := filepath.Glob(filepath.Join(folder, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}
