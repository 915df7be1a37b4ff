package integration_test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// disks gives a cluster a small disk for each of its two databases, of which others
// see nothing and which end with it. Everything else of the cluster, as its log of
// changes, lies where there is room. Nil where no disk may be mounted: see [cluster.fill].
type disks struct {
	dir   string
	owner *syscall.Credential
}

const diskSize = 32 << 20 // an empty database takes 8

// newDisks looks whether this user may mount one.
func newDisks(t *testing.T) *disks {
	t.Helper()
	owner := serverUser(t, "postgres", "postgresql")
	if out, err := exec.Command("unshare", "--mount", "true").CombinedOutput(); owner == nil || err != nil {
		t.Logf("no disk can be mounted here (it takes root and CAP_SYS_ADMIN), so triggers refuse like a full one: %v %s", err, out)
		return nil
	}
	return &disks{scratch(t, owner), owner}
}

func (d *disks) of(database string) string { return filepath.Join(d.dir, database) }

// space is the folder for the database, which must be empty.
func (d *disks) space(database string) string { return filepath.Join(d.of(database), "space") }

// mounting returns the command of a server that sees the disks.
func (d *disks) mounting(server *exec.Cmd) *exec.Cmd {
	script := `for disk in master replica; do
	mkdir -p "$1/$disk" && mount -t tmpfs -o mode=0777,size=` + strconv.Itoa(diskSize) + ` none "$1/$disk" &&
	install -d -m 700 -o "$2" -g "$3" "$1/$disk/space" || exit 1
done
dir=$1 uid=$2 gid=$3; shift 3
exec setpriv --reuid "$uid" --regid "$gid" --clear-groups -- "$@"`
	args := []string{
		"--mount", "--propagation", "private", "sh", "-c", script, "disks", d.dir,
		strconv.Itoa(int(d.owner.Uid)), strconv.Itoa(int(d.owner.Gid)),
	}
	cmd := exec.Command("unshare", append(args, server.Args...)...)
	cmd.Dir, cmd.Env = server.Dir, server.Env
	return cmd
}

// fill takes what is left of a database's disk. Where there is none of its own,
// triggers refuse what would need room, in the server's words.
func (c *cluster) fill(t *testing.T, database string) (free func()) {
	t.Helper()
	if c.disks == nil {
		return c.refuseRoom(t, database)
	}
	// The server does it, for nobody else sees the disk.
	ballast := filepath.Join(c.disks.of(database), "ballast")
	execute(t, c.admin, fmt.Sprintf("COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; cat /dev/zero >%s || true'", ballast))
	return func() {
		execute(t, c.admin, fmt.Sprintf("COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; rm %s'", ballast))
	}
}

const (
	noRoom = `CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$`
	noRoomIn = `CREATE TRIGGER no_room BEFORE INSERT OR UPDATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION no_room()`
)

func (c *cluster) refuseRoom(t *testing.T, database string) (free func()) {
	t.Helper()
	db := c.openAs(t, "lockstep", database)
	tables := map[string][]string{"master": {"outbox", "accounts"}, "replica": {"account_ref"}}[database]
	execute(t, db, noRoom)
	for _, table := range tables {
		execute(t, db, fmt.Sprintf(noRoomIn, table))
	}
	return func() { execute(t, db, "DROP FUNCTION no_room CASCADE") }
}
