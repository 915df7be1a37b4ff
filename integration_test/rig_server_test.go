package integration_test

import (
	"bytes"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// server is a database or a broker of the test's own, for faults that would
// disturb the others. It ends with the test, and with this process, however that
// ends.
type server struct {
	name    string
	command func() *exec.Cmd
	quit    syscall.Signal // ends it at once; sent to its process group
	logs    output
	process *exec.Cmd
	guard   *exec.Cmd
	ready   func() error
}

// start runs the server and waits until it can be used.
func (s *server) start(t *testing.T) {
	t.Helper()
	s.launch(t)
	s.await(t)
}

func (s *server) launch(t *testing.T) {
	t.Helper()
	s.process = s.command()
	s.process.Stdout, s.process.Stderr = &s.logs, &s.logs
	if s.process.SysProcAttr == nil {
		s.process.SysProcAttr = &syscall.SysProcAttr{}
	}
	s.process.SysProcAttr.Setpgid = true
	if err := s.process.Start(); err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	s.watch(t)
}

func (s *server) await(t *testing.T) {
	t.Helper()
	var err error
	if !eventually(t, func() bool { err = s.ready(); return err == nil }) {
		t.Fatalf("%s cannot be used after %v: %v\n%s", s.name, patience, err, s.logs.text())
	}
}

// watch starts a process that ends the server when this one dies, which closes
// the other end of a pipe.
func (s *server) watch(t *testing.T) {
	t.Helper()
	group := strconv.Itoa(s.process.Process.Pid)
	s.guard = exec.Command("sh", "-c", `read -r _; kill -s "$1" -- "-$2"`, "guard", strconv.Itoa(int(s.quit)), group)
	s.guard.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if _, err := s.guard.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.guard.Start(); err != nil {
		t.Fatal(err)
	}
}

// stop sends a signal to the server's processes and waits until they have ended.
func (s *server) stop(signal syscall.Signal) {
	if s.process == nil {
		return
	}
	_ = s.guard.Process.Kill()
	_ = s.guard.Wait()
	_ = syscall.Kill(-s.process.Process.Pid, signal) // gone already: as good
	_ = s.process.Wait()
	s.process = nil
}

// end stops the server for good and shows its log when the test has failed.
func (s *server) end(t *testing.T) {
	s.stop(s.quit)
	if t.Failed() {
		t.Logf("%s:\n%s", s.name, s.logs.text())
	}
}

// output collects what a process or a logger writes and can be read meanwhile.
type output struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buffer.Write(p)
}

func (o *output) text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buffer.String()
}

// says counts how often a text was written.
func (o *output) says(what string) int { return strings.Count(o.text(), what) }

// await waits until the text was written once more than seen times.
func (o *output) await(t *testing.T, what string, seen int) {
	t.Helper()
	until(t, "the log says "+strconv.Quote(what), func() bool { return o.says(what) > seen })
}

// quiet waits until nothing has been written for a second.
func (o *output) quiet(t *testing.T) {
	t.Helper()
	last, since := o.text(), time.Now()
	until(t, "the log ends", func() bool {
		if now := o.text(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > time.Second
	})
}

// scratch makes a folder that ends with the test and that another user may use:
// that of t.TempDir lies below one that is closed to others.
func scratch(t *testing.T, owner *syscall.Credential) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lockstep-server-")
	if err == nil && owner != nil {
		err = os.Chown(dir, int(owner.Uid), int(owner.Gid))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// program finds a server's program: in the folders given, the last first, or in
// the PATH.
func program(t *testing.T, name, debian string, folders ...string) string {
	t.Helper()
	for _, pattern := range folders {
		found, _ := filepath.Glob(filepath.Join(pattern, name))
		if len(found) > 0 {
			return slices.MaxFunc(found, byVersion)
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v\nthis test starts a server of its own: install it with `apt-get install --no-install-recommends %s`", err, debian)
	}
	return path
}

// byVersion compares paths with a version number in them.
func byVersion(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

var (
	portsMu sync.Mutex
	ports   = map[int]bool{}
)

// freePort returns a port that nobody else has. It lies below those that the
// system gives to outgoing connections, so that it is still free when the server
// starts again.
func freePort(t *testing.T) int {
	t.Helper()
	portsMu.Lock()
	defer portsMu.Unlock()
	for range 100 {
		port := 20_000 + rand.IntN(12_000)
		if ports[port] {
			continue
		}
		ports[port] = true
		if listener, err := net.Listen("tcp", loopback(port)); err == nil {
			closeIt(t, listener)
			return port
		}
	}
	t.Fatal("no free port from 20000 to 32000")
	return 0
}

// listens reports an error if nobody takes connections on the port.
func listens(port int) error {
	conn, err := net.DialTimeout("tcp", loopback(port), time.Second)
	if err == nil {
		err = conn.Close()
	}
	return err
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
