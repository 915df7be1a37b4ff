package integration_test

import (
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// cluster is a PostgreSQL of the test's own.
type cluster struct {
	server
	port  int
	data  string // its folder
	tools string // that of its programs
	run   func(program string, args ...string) *exec.Cmd
	admin *sql.DB // as the superuser, who has reserved connections
	disks *disks  // of its databases; nil: the machine's
}

var databases = []string{"master", "replica"}

// newCluster makes a cluster with the databases master and replica, which belong
// to the role lockstep, and starts it. Settings are written as on the command
// line, "max_connections=20".
func newCluster(t *testing.T, settings ...string) *cluster {
	t.Helper()
	return newClusterOn(t, nil, settings...)
}

// newClusterOn is newCluster with the databases on disks of their own.
func newClusterOn(t *testing.T, disks *disks, settings ...string) *cluster {
	t.Helper()
	initdb := program(t, "initdb", "postgresql", "/usr/lib/postgresql/*/bin")
	if path, err := filepath.EvalSymlinks(initdb); err == nil {
		initdb = path // the other programs lie beside it
	}
	owner := serverUser(t, "postgres", "postgresql")
	dir := scratch(t, owner)
	data := filepath.Join(dir, "data")
	run := func(program string, args ...string) *exec.Cmd {
		cmd := exec.Command(program, args...)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
		cmd.Env = append(os.Environ(), "HOME="+dir, "LC_ALL=C.UTF-8")
		return cmd
	}
	if out, err := run(initdb, "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync").CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	c := &cluster{port: freePort(t), data: data, tools: filepath.Dir(initdb), run: run, disks: disks}
	args := []string{
		"-D", data, "-p", strconv.Itoa(c.port), "-k", dir, "-c", "listen_addresses=127.0.0.1",
		"-c", "fsync=off", // the machine does not crash here
	}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	c.server = server{name: "PostgreSQL", quit: syscall.SIGQUIT, command: func() *exec.Cmd {
		cmd := run(c.program("postgres"), args...)
		if disks != nil {
			return disks.mounting(cmd)
		}
		return cmd
	}}
	t.Cleanup(func() { c.end(t) })
	c.admin = c.openAs(t, "postgres", "postgres")
	c.ready = func() error { return c.admin.PingContext(t.Context()) }
	c.start(t)
	execute(t, c.admin, "CREATE ROLE lockstep LOGIN")
	for _, name := range databases {
		place := ""
		if disks != nil {
			execute(t, c.admin, fmt.Sprintf("CREATE TABLESPACE %s LOCATION '%s'", name, disks.space(name)))
			place = " TABLESPACE " + name
		}
		execute(t, c.admin, "CREATE DATABASE "+name+" OWNER lockstep"+place)
	}
	return c
}

func (c *cluster) program(name string) string { return filepath.Join(c.tools, name) }

func (c *cluster) dsn(role, database string) string {
	return fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable&connect_timeout=30", role, loopback(c.port), database)
}

// open returns a pool on one of the cluster's databases.
func (c *cluster) open(t *testing.T, database string) (db *sql.DB, dsn string) {
	t.Helper()
	return c.openAs(t, "lockstep", database), c.dsn("lockstep", database)
}

func (c *cluster) openAs(t *testing.T, role, database string) *sql.DB {
	t.Helper()
	db, err := sql.Open("postgres", c.dsn(role, database))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // some connections may have been terminated
	return db
}

// restart is what `pg_ctl restart -m fast` does with SIGINT, and `-m immediate`
// with SIGQUIT, after which the server has to recover as from a crash.
func (c *cluster) restart(t *testing.T, signal syscall.Signal) {
	t.Helper()
	c.stop(signal)
	c.start(t)
}

// demote restarts the server as a standby, which only reads, until promote.
func (c *cluster) demote(t *testing.T) {
	t.Helper()
	c.stop(syscall.SIGINT)
	if err := os.WriteFile(filepath.Join(c.data, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c.start(t)
}

func (c *cluster) promote(t *testing.T) {
	t.Helper()
	execute(t, c.admin, "SELECT pg_promote()")
}
