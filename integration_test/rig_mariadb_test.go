package integration_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/go-sql-driver/mysql"
)

// mariadb is a MariaDB of the test's own. It has no accounts: whoever connects, under
// whatever name, may do everything.
type mariadb struct {
	server
	port  int
	admin *sql.DB
	mode  []string // settings of the next start alone
	other *mariadb // has the replica; nil: this one has both
}

// newMariaDB makes a server with the databases master and replica and starts it.
// Settings are written as on the command line, "--max-connections=20".
func newMariaDB(t *testing.T, settings ...string) *mariadb {
	t.Helper()
	binary := program(t, "mariadbd", "mariadb-server", "/usr/sbin")
	owner := serverUser(t, "mysql", "mariadb-server")
	dir := scratch(t, owner)
	databases := filepath.Join(dir, "databases.sql")
	const ddl = "CREATE DATABASE IF NOT EXISTS master CHARACTER SET utf8mb4;\nCREATE DATABASE IF NOT EXISTS replica CHARACTER SET utf8mb4;\n"
	if err := os.WriteFile(databases, []byte(ddl), 0o644); err != nil {
		t.Fatal(err)
	}
	m := &mariadb{port: freePort(t)}
	args := append([]string{
		"--no-defaults", "--datadir=" + dir, "--tmpdir=" + dir, // servers clear their tmpdir
		"--socket=" + filepath.Join(dir, "socket"), "--bind-address=127.0.0.1",
		"--port=" + strconv.Itoa(m.port), "--init-file=" + databases,
		"--skip-grant-tables",                // so the folder may be empty at the first start, which takes no time then
		"--innodb-flush-log-at-trx-commit=2", // a commit outlives the process; the machine does not crash here
		"--innodb-log-file-size=16M", "--innodb-buffer-pool-size=64M", "--skip-log-bin",
	}, settings...)
	m.server = server{name: "MariaDB", quit: syscall.SIGKILL, command: func() *exec.Cmd {
		cmd := exec.Command(binary, append(args, m.mode...)...)
		cmd.Dir = dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: owner}
		return cmd
	}}
	t.Cleanup(func() { m.end(t) })
	m.admin, _ = m.open(t, "")
	m.ready = func() error { return m.admin.PingContext(t.Context()) }
	m.start(t)
	return m
}

// open returns a pool on one of the server's databases, with connections like those of
// testdb.MariaDB.
func (m *mariadb) open(t *testing.T, database string) (db *sql.DB, dsn string) {
	t.Helper()
	cfg := mysql.NewConfig()
	cfg.User, cfg.Net, cfg.Addr, cfg.DBName = "lockstep", "tcp", loopback(m.port), database
	cfg.MultiStatements = true
	cfg.Params = map[string]string{"sql_mode": "'ANSI_QUOTES,STRICT_TRANS_TABLES'"}
	dsn = cfg.FormatDSN()
	db, err := sql.Open("mysql", dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() }) // some connections may have been killed
	return db, dsn
}

// restart stops the server, in order with SIGTERM, and starts it with further settings.
func (m *mariadb) restart(t *testing.T, signal syscall.Signal, settings ...string) {
	t.Helper()
	m.stop(signal)
	m.mode = settings
	m.start(t)
}

// kill ends all connections of a service, whose name is its user's.
func (m *mariadb) kill(t *testing.T, service string) {
	t.Helper()
	until(t, "a connection is killed", func() (killed bool) {
		query := fmt.Sprintf("SELECT id FROM information_schema.processlist WHERE user = '%s'", service)
		for _, id := range lines(t, m.admin, query) {
			_, err := m.admin.ExecContext(t.Context(), "KILL "+id)
			killed = killed || err == nil // else it has gone by itself
		}
		return killed
	})
}

// fill takes what the server's one file may still grow by.
func (m *mariadb) fill(t *testing.T) (free func()) {
	t.Helper()
	execute(t, m.admin, "CREATE TABLE master.ballast (part varbinary(4000)) ENGINE=InnoDB")
	for _, size := range []int{4000, 500, 50} {
		for {
			_, err := m.admin.ExecContext(t.Context(), fmt.Sprintf("INSERT INTO master.ballast VALUES (REPEAT('x', %d))", size))
			if isFull(err) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return func() { execute(t, m.admin, "DROP TABLE master.ballast") }
}

// isFull reports whether MariaDB had no room.
func isFull(err error) bool {
	var refusal *mysql.MySQLError
	return errors.As(err, &refusal) && refusal.Number == 1114 // ER_RECORD_FILE_FULL, also of a full disk
}

// serverUser is who runs a server when root may not; nil for this user.
func serverUser(t *testing.T, name, debian string) *syscall.Credential {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatalf("%v\nthe server refuses to run as root: make the user, or install it with `apt-get install --no-install-recommends %s`", err, debian)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}
