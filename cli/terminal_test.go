package cli_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/creack/pty"

	"github.com/lockstep-go/lockstep/migrations"
)

// onTerminal runs the command with a terminal for standard input and standard
// error, on which somebody types, and returns what it showed.
func onTerminal(t *testing.T, env []string, typed string, args ...string) (out, screen string, code int) {
	t.Helper()
	binary, err := relayBinary()
	if err != nil {
		t.Fatal(err)
	}
	keyboard, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = keyboard.Close() }()
	if err := pty.Setsize(keyboard, &pty.Winsize{Rows: 24, Cols: 120}); err != nil {
		t.Fatal(err)
	}
	shown := make(chan string)
	go func() {
		all, _ := io.ReadAll(keyboard) // ends with an error when the last writer has closed
		shown <- string(all)
	}()
	var stdout lockedBuffer
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, &stdout, terminal
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = terminal.Close()
	if _, err := io.WriteString(keyboard, typed); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its code is read from the state
	return stdout.String(), <-shown, cmd.ProcessState.ExitCode()
}

// On a terminal there is a bar with rate and time left; elsewhere there are lines now
// and then, and with --quiet nothing.
func TestProgress(t *testing.T) {
	t.Parallel()
	s := newSides(t, 40)
	env := append(s.env, "LOCKSTEP_DATABASE_URL="+s.masterURL)
	sync := []string{"sync", "--cqrs-id", "account", "--all", "--batch", "2"}
	out, screen, code := onTerminal(t, env, "", append(sync, "--rate", "20/s")...)
	if code != 0 || out != "40 rows synced\n" {
		t.Errorf("exit code %d, printed %q", code, out)
	}
	for _, want := range []string{`\d+% \|`, `\(\d+/40, \d+ rows/s\)`, `\[\d+s:\d+s\]`} {
		if !regexp.MustCompile(want).MatchString(screen) {
			t.Errorf("the terminal lacks %s: %q", want, screen)
		}
	}
	if _, screen, _ = onTerminal(t, env, "", append(sync, "--quiet", "--rate", "80/s")...); screen != "" {
		t.Errorf("--quiet showed %q", screen)
	}
	o := run(t, env, "", append(sync, "--rate", "5/s")...)
	o.expect(t, 0)
	if want := `(?m)^\w[\w ]*: \d+ of 40 rows, \d+%, \d+ rows/s, \ds left$`; !regexp.MustCompile(want).MatchString(o.stderr) || strings.ContainsAny(o.stderr, "\r|\x1b") {
		t.Errorf("no plain lines: %q", o.stderr)
	}
	run(t, env, "", append(sync, "--rate", "7/s", "--quiet")...).wantNothing(t)
}

// Each long command shows a bar with a rate and the time left, also where it has to
// judge from a file's size how much there is to do.
func TestProgressOfEachCommand(t *testing.T) {
	t.Parallel()
	const rows = 6000
	s := newSidesOn(t, migrations.Postgres, migrations.Postgres, rows)
	folder := t.TempDir()
	file := func(name string) string { return filepath.Join(folder, name) }
	write := func(name, content string) string {
		if err := os.WriteFile(file(name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file(name)
	}
	s.exec(s.master, fmt.Sprintf(`INSERT INTO outbox_dead (id, topic, key, payload, metadata, created_at, error, attempts)
		SELECT i, 'account', i, 'x', '{}', now(), 'refused', 1 FROM generate_series(1, %d) i`, rows))
	dump := s.onMaster("", "dump", "--cqrs-id", "account", "-o", "-", "--quiet").out
	one := s.onMaster("", "diff", "master", "--cqrs-id", "account", "--quiet").out
	two := s.onReplica(one, "diff", "replica", "--quiet").out
	for _, c := range []struct{ url, args string }{
		{s.masterURL, "dump --cqrs-id account -o " + file("account.dump.gz")},
		{s.replicaURL, "load --apart -i " + file("account.dump.gz")},
		{s.replicaURL, "load -i " + write("account.dump", dump)},
		{s.masterURL, "diff master --cqrs-id account"},
		{s.replicaURL, "diff replica -i " + write("one", one)},
		{s.masterURL, "diff sync -i " + write("two", two)},
		{s.replicaURL, "deleted replica --cqrs-id account"},
		{s.masterURL, "deleted master -i " + write("all", two)},
		{s.replicaURL, "deleted sync -i " + write("gone", strings.Replace(two, ",20", ",19", 1))},
		{"", "diff --cqrs-id account --master-url " + s.masterURL + " --replica-url " + s.replicaURL},
		{s.masterURL, "dead-letters retry --outbox"},
	} {
		out, screen, code := onTerminal(t, append(s.env, "LOCKSTEP_DATABASE_URL="+c.url), "", args(c.args)...)
		if want := `\d+% \|.*\(\d+/\d+, \d+ (rows|letters)/s\) \[\d+s:\d+s\]`; code != 0 || !regexp.MustCompile(want).MatchString(screen) {
			t.Errorf("relay %s: exit code %d, the terminal lacks %s: %q (printed %.100q)", c.args, code, want, screen, out)
		}
	}
}

func (o outcome) wantNothing(t *testing.T) {
	t.Helper()
	if o.code != 0 || o.stderr != "" {
		t.Errorf("with --quiet: %v", o)
	}
}

// What is deleted for good is asked about on a terminal.
func TestPurgeAsksOnATerminal(t *testing.T) {
	t.Parallel()
	s := newSides(t, 0)
	s.exec(s.master, `INSERT INTO outbox_dead (id, topic, key, payload, metadata, created_at, error, attempts) VALUES (1, 'account', 'a', 'x', '{}', now(), 'refused', 1)`)
	s.fails([4]string{"account", "a", "refused", "1"})
	env := []string{"LOCKSTEP_DATABASE_URL=" + s.masterURL}
	for _, c := range []struct{ command, asked, done, table string }{
		{"dead-letters purge --outbox", "Delete the selected dead letters for good?", "1 dead letter purged\n", "outbox_dead"},
		{"failures purge", "Delete 1 event for good, so that replicas never get it?", "1 failing message purged\n", "outbox"},
	} {
		for _, answer := range []string{"n\n", "\n", "\x04"} {
			_, screen, code := onTerminal(t, env, answer, args(c.command)...)
			if code != 1 || !strings.Contains(screen, c.asked+" [y/N]") || !strings.Contains(screen, "nothing was deleted") {
				t.Errorf("%s, answer %q: exit code %d, %q", c.command, answer, code, screen)
			}
		}
		if n := s.int(s.master, `SELECT count(*) FROM `+c.table); n != 1 {
			t.Fatalf("%s: %d left, want 1", c.command, n)
		}
		out, screen, code := onTerminal(t, env, "y\n", args(c.command)...)
		if code != 0 || out != c.done {
			t.Errorf("%s, answer y: exit code %d, %q, %q", c.command, code, out, screen)
		}
	}
}
