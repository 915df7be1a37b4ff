package cli_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lockstep-go/lockstep/cli"
)

// secret is the password in every URL of these tests that does not need to
// work. The helpers fail a test whose command prints it.
const secret = "s3cret"

// patience is for steps that take milliseconds on an idle machine.
const patience = 90 * time.Second

// binaryFolder is where relayBinary builds.
var binaryFolder string

func TestMain(m *testing.M) {
	// What the person who runs the tests has set is none of their business.
	for _, name := range []string{"LOCKSTEP_DATABASE_URL", "LOCKSTEP_BROKER_URL", "LOCKSTEP_CONFIG"} {
		_ = os.Unsetenv(name)
	}
	folder, err := os.MkdirTemp("", "lockstep-cli-")
	if err != nil {
		panic(err)
	}
	binaryFolder = folder
	defer func() { _ = os.RemoveAll(folder) }()
	m.Run()
}

// relayBinary builds the command once.
var relayBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binaryFolder, "relay")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", path, "../cmd/relay")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// outcome is what a command left behind.
type outcome struct {
	code        int
	out, stderr string
}

func (o outcome) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", o.code, o.out, o.stderr)
}

// relay runs the command in this process to its end.
func relay(t *testing.T, args ...string) outcome {
	t.Helper()
	var out, stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	o := outcome{code: cli.Main(ctx, args, &out, &stderr)}
	o.out, o.stderr = out.String(), stderr.String()
	noSecret(t, o.out+o.stderr)
	return o
}

// mustRelay is relay for commands that are not the test's subject.
func mustRelay(t *testing.T, args ...string) string {
	t.Helper()
	o := relay(t, args...)
	if o.code != 0 {
		t.Fatalf("relay %s: %v", strings.Join(args, " "), o)
	}
	return o.out
}

func noSecret(t *testing.T, output string) {
	t.Helper()
	if strings.Contains(output, secret) {
		t.Errorf("the output holds the password:\n%s", output)
	}
}

// expect checks the exit code and that stderr holds each of the texts.
func (o outcome) expect(t *testing.T, code int, stderr ...string) {
	t.Helper()
	var faults []string
	if o.code != code {
		faults = append(faults, fmt.Sprintf("exit code %d, want %d", o.code, code))
	}
	for _, text := range stderr {
		if !strings.Contains(o.stderr, text) {
			faults = append(faults, fmt.Sprintf("stderr lacks %q", text))
		}
	}
	if len(faults) > 0 {
		t.Errorf("%s\n%v", strings.Join(faults, "\n"), o)
	}
}

// process is the command as a process of its own.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  lockedBuffer
	log  lockedBuffer
	done chan struct{}
}

// start starts the command with these variables in its environment. It is killed at the end of
// the test if it still runs.
func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	binary, err := relayBinary()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, cmd: exec.Command(binary, args...), done: make(chan struct{})}
	p.begin(env)
	return p
}

// begin starts the process, and sees to its end.
func (p *process) begin(env []string) {
	t := p.t
	t.Helper()
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = &p.log
	if p.cmd.Stdout == nil {
		p.cmd.Stdout = &p.out
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // its code is read from the state
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		noSecret(t, p.out.String()+p.log.String())
		if t.Failed() {
			t.Logf("%s\nstdout: %s\nstderr: %s", strings.Join(p.cmd.Args[:2], " "), p.out.String(), p.log.String())
		}
	})
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %v: %v", s, err)
	}
}

// waitLog waits until the process has logged the text.
func (p *process) waitLog(text string) {
	p.t.Helper()
	eventually(p.t, func() string {
		select {
		case <-p.done:
			p.t.Fatalf("the process has ended; its log lacks %q", text)
		default:
		}
		if !strings.Contains(p.log.String(), text) {
			return fmt.Sprintf("the log lacks %q", text)
		}
		return ""
	})
}

// exit waits for the end and returns the exit code, or the signal that ended it.
func (p *process) exit(within time.Duration) (code int, by syscall.Signal) {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(within):
		p.t.Fatalf("still running after %v", within)
	}
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		p.t.Fatal(errors.New("no wait status on this system"))
	}
	if status.Signaled() {
		return -1, status.Signal()
	}
	return status.ExitStatus(), 0
}

// exitsCleanly interrupts the process and expects exit code 0.
func (p *process) exitsCleanly() {
	p.t.Helper()
	p.signal(os.Interrupt)
	if code, by := p.exit(patience); code != 0 {
		p.t.Errorf("after one interrupt: exit code %d (%v), want 0", code, by)
	}
}

// lockedBuffer is written to by a process while a test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// eventually repeats a check until it returns "".
func eventually(t *testing.T, check func() string) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := check()
		if missing == "" {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("after %v: %s", patience, missing)
		case <-tick.C:
		}
	}
}

// unique makes a name that no other test has.
func unique(what string) string { return "cli_" + what + "_" + strings.ToLower(rand.Text()[:10]) }

// writeFile writes a file of the test's own and returns its path.
func writeFile(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
