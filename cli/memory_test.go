package cli_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/migrations"
)

// Rows of the test, with keys and names so long that all of either fill more memory
// than a command may take.
const (
	manyRows    = 60_000
	longText    = 400       // characters
	mostKiB     = 64 * 1024 // their own, resident
	lookAtEvery = 20 * time.Millisecond
)

// Memory does not grow with the number of rows.
func TestMemoryDoesNotGrowWithTheRows(t *testing.T) {
	t.Parallel()
	s := newSidesOn(t, migrations.Postgres, migrations.Postgres, 0)
	s.manyTexts()
	folder := t.TempDir()
	file := func(name string) string { return filepath.Join(folder, name) }
	for _, step := range []struct {
		url, in, out, args string
	}{
		{s.masterURL, "", "", "dump --cqrs-id thing -o " + file("thing.dump.gz")},
		{s.replicaURL, "", "", "load -i " + file("thing.dump.gz")},
		{s.masterURL, "", file("one"), "diff master --cqrs-id thing"},
		{s.replicaURL, file("one"), file("two"), "diff replica"},
		{s.replicaURL, "", file("all"), "deleted replica --cqrs-id thing"},
		{s.masterURL, file("all"), file("gone"), "deleted master"},
		{s.masterURL, "", "", "sync --cqrs-id thing --all"},
		{s.masterURL, file("all"), "", "diff sync --queue billing"},
		{s.masterURL, "", "", "diff --cqrs-id thing --fields --master-url " + s.masterURL + " --replica-url " + s.replicaURL},
	} {
		if kib := s.peak(step.url, step.in, step.out, args(step.args)...); kib > mostKiB {
			t.Errorf("%s took %d MiB, want at most %d", step.args, kib/1024, mostKiB/1024)
		}
	}
	if n := s.int(s.replica, `SELECT count(*) FROM thing_ref`); n != manyRows {
		t.Errorf("%d rows are loaded, want %d", n, manyRows)
	}
	if n := s.int(s.master, `SELECT count(*) FROM outbox`); n != 2*manyRows {
		t.Errorf("%d events are in the outbox, want %d", n, 2*manyRows)
	}
	s.exec(s.master, `INSERT INTO outbox_dead (id, topic, key, payload, metadata, created_at, error, attempts)
		SELECT id, topic, key, payload, metadata, created_at, 'refused', 1 FROM outbox WHERE topic = 'thing'`)
	s.exec(s.master, `TRUNCATE outbox`)
	for _, step := range []struct {
		url, in, out, args string
	}{
		{s.masterURL, "", file("letters"), "dead-letters dump --outbox"},
		{s.masterURL, "", "", "dead-letters retry --outbox"},
		{s.replicaURL, file("all"), "", "deleted sync"},
		{s.masterURL, "", file("failing"), "failures list --json"},
		{s.masterURL, "", "", "failures retry"},
	} {
		if strings.HasPrefix(step.args, "failures list") {
			s.exec(s.master, `INSERT INTO outbox_failures SELECT id, 1, repeat('refused ', 50), now() FROM outbox`)
		}
		if kib := s.peak(step.url, step.in, step.out, args(step.args)...); kib > mostKiB {
			t.Errorf("%s took %d MiB, want at most %d", step.args, kib/1024, mostKiB/1024)
		}
	}
	if n := s.int(s.master, `SELECT count(*) FROM outbox`); n != manyRows {
		t.Errorf("%d dead letters are back, want %d", n, manyRows)
	}
	if n := s.int(s.replica, `SELECT count(*) FROM thing_ref`); n != 0 {
		t.Errorf("%d rows are left, want none", n)
	}
	if n := s.int(s.master, `SELECT count(*) FROM outbox_failures WHERE attempts = 0`); n != manyRows {
		t.Errorf("%d failing messages are due, want %d", n, manyRows)
	}
}

// Nor with the number of dead letters in a queue.
func TestMemoryOfDeadLetters(t *testing.T) {
	t.Parallel()
	b := box{t, testdb.RabbitMQURL(t), unique("billing"), unique("account")}
	const letters, together, padding = 8000, 500, 20_000
	var bytes int
	b.with(func(open broker.Broker) {
		for _, queue := range []string{b.queue, event.DeadLetterQueue(b.queue)} {
			if err := open.Bind(t.Context(), queue, event.DirectTopic(queue, b.entity)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				b.with(func(open broker.Broker) { _ = open.DeleteQueue(context.WithoutCancel(t.Context()), queue) })
			})
		}
		for first := 0; first < letters; first += together {
			var msgs []*message.Message
			for i := range together {
				letter := b.letter(fmt.Sprint(first+i), "data", "does not fit", time.Minute)
				letter.Payload = append(letter.Payload, strings.Repeat(" ", padding)...)
				bytes += len(letter.Payload)
				msgs = append(msgs, letter)
			}
			if err := open.Publish(event.DirectTopic(event.DeadLetterQueue(b.queue), b.entity), msgs...); err != nil {
				t.Fatal(err)
			}
		}
	})
	if bytes < 2*mostKiB*1024 {
		t.Errorf("the letters have %d bytes, want at least twice what a command may take", bytes)
	}
	s := &sides{t: t, env: []string{"LOCKSTEP_BROKER_URL=" + b.url}}
	out := filepath.Join(t.TempDir(), "letters")
	for _, command := range []string{"list", "dump", "purge --yes"} {
		if kib := s.peak("", "", out, args("dead-letters "+command+" --queue "+b.queue)...); kib > mostKiB {
			t.Errorf("dead-letters %s took %d MiB, want at most %d", command, kib/1024, mostKiB/1024)
		}
	}
	if printed, err := os.ReadFile(out); err != nil || string(printed) != fmt.Sprintf("%d dead letters purged\n", letters) {
		t.Errorf("purge printed %q, %v", printed, err)
	}
}

// manyTexts adds an entity with long keys to both sides.
func (s *sides) manyTexts() {
	s.t.Helper()
	for _, on := range []struct {
		url, table string
	}{{s.masterURL, "things"}, {s.replicaURL, "thing_ref"}} {
		db := s.master
		if on.url == s.replicaURL {
			db = s.replica
		}
		s.exec(db, `CREATE TABLE `+on.table+` (code text PRIMARY KEY, name text NOT NULL)`)
		s.exec(db, mustRelay(s.t, "migrate", "table", on.table))
	}
	s.exec(s.master, fmt.Sprintf(`INSERT INTO things SELECT concat(lpad(concat(i, ''), 9, '0'), repeat('k', %d)), repeat('n', %d), 1, CURRENT_TIMESTAMP FROM %s`,
		longText, longText, numbers(migrations.Postgres, manyRows)))
	s.env[0] = "LOCKSTEP_CONFIG=" + writeFile(s.t, "things.yaml", `
entities:
  thing: {table: things, key: code}
queue: billing
replicas:
  thing: {table: thing_ref, key: code}
`)
}

// peak runs a command and returns the most memory of its own that it had, in KiB: what
// is mapped from its binary depends on the machine's page cache.
func (s *sides) peak(url, in, out string, args ...string) (kib int) {
	t := s.t
	t.Helper()
	binary, err := relayBinary()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.CommandContext(t.Context(), binary, args...), done: make(chan struct{})}
	if in != "" {
		f, err := os.Open(in)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		p.cmd.Stdin = f
	}
	if out != "" {
		f, err := os.Create(out)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = f.Close() }()
		p.cmd.Stdout = f
	}
	began := time.Now()
	p.begin(append(s.env, "LOCKSTEP_DATABASE_URL="+url))
	tick := time.NewTicker(lookAtEvery)
	defer tick.Stop()
	for {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
		if m := regexp.MustCompile(`RssAnon:\s+(\d+) kB`).FindSubmatch(status); err == nil && m != nil {
			now, _ := strconv.Atoi(string(m[1]))
			kib = max(kib, now)
		}
		select {
		case <-p.done:
			if code := p.cmd.ProcessState.ExitCode(); code != 0 || kib == 0 {
				t.Fatalf("relay %s: exit code %d, %d KiB: %s", strings.Join(args, " "), code, kib, p.log.String())
			}
			t.Logf("%d MiB in %v: %s", kib/1024, time.Since(began).Round(time.Millisecond), strings.Join(args[:2], " "))
			return kib
		case <-tick.C:
		}
	}
}
