package cli

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/relay"
)

// databases looks at the master's database and the replica's, which may be one.
func (d *doctor) databases(ctx context.Context, file *configFile) {
	if d.databaseURL != "" {
		replica := d.replicaURL == "" && (file.hasReplicas() || !file.hasEntities())
		d.database(ctx, "database", d.databaseURL, func(db *database) {
			if file.hasEntities() || !file.hasReplicas() {
				d.master(ctx, db, file)
			}
			if replica {
				d.replica(ctx, db, file)
			}
		})
	}
	if d.replicaURL != "" {
		d.database(ctx, "replica's database", d.replicaURL, func(db *database) { d.replica(ctx, db, file) })
	}
}

// database makes the checks of any database, and more if it is migrated.
func (d *doctor) database(ctx context.Context, what, url string, more func(db *database)) {
	db, err := openDatabase(ctx, url)
	if err != nil {
		d.judge(what, err, "", "start it, or correct the URL")
		return
	}
	defer func() { _ = db.Close() }()
	d.add(what, levelOK, "", "%s can be reached", db.name)
	d.clock(ctx, what, db)
	d.oldTransactions(ctx, db)
	if db.dialect == migrations.MySQL {
		var mode string
		if err := db.QueryRowContext(ctx, dialect.MySQLMode).Scan(&mode); err != nil {
			d.judge("SQL mode", err, "", "")
		} else {
			d.findings = append(d.findings, modeFinding(mode))
		}
	}
	if d.migrated(ctx, db) {
		more(db)
	}
}

func (d *doctor) migrated(ctx context.Context, db *database) bool {
	list, err := migrations.Status(ctx, db.DB, db.dialect)
	var pending []string
	for _, m := range list {
		if m.At.IsZero() {
			pending = append(pending, m.Name)
		}
	}
	if err == nil && len(pending) > 0 {
		err = fmt.Errorf("not applied: %s", strings.Join(pending, ", "))
	}
	d.judge("migrations", err, "all are applied", "run `relay migrate up`")
	return err == nil
}

func (d *doctor) clock(ctx context.Context, what string, db *database) {
	began := time.Now()
	var ms int64
	if err := db.QueryRowContext(ctx, db.dialect.Clock()).Scan(&ms); err != nil {
		d.judge("clock", err, "", "")
		return
	}
	d.findings = append(d.findings, clockFinding("the "+what+"'s", time.UnixMilli(ms), began.Add(time.Since(began)/2)))
}

// modeFinding judges the SQL mode that other programs' sessions have. Lockstep's own
// set theirs.
func modeFinding(mode string) finding {
	for name := range strings.SplitSeq(mode, ",") {
		if name == "STRICT_TRANS_TABLES" || name == "STRICT_ALL_TABLES" || name == "TRADITIONAL" {
			return finding{Check: "SQL mode", Level: levelOK, What: "sessions are strict"}
		}
	}
	return finding{
		"SQL mode", levelWrong, "sessions are not strict by default: values that do not fit are cut without a word",
		"put STRICT_TRANS_TABLES into the server's sql_mode, or into that of each service's sessions",
	}
}

func (d *doctor) oldTransactions(ctx context.Context, db *database) {
	query := db.dialect.OldTransactions()
	if query == "" {
		return
	}
	held, err := d.readOld(ctx, db, query)
	switch {
	case dialect.IsDenied(err):
		d.add("vacuum", levelNote, "grant PROCESS to the account", "other transactions may not be seen: not checked")
	case err != nil:
		d.judge("vacuum", err, "", "")
	case len(held) == 0:
		d.add("vacuum", levelOK, "", "no transaction is open for longer than %v, as far as this account sees", d.after)
	default:
		d.add("vacuum", levelWrong, "end it: the outbox grows with deleted rows as long as it is open",
			"%s", strings.Join(held, "; "))
	}
}

func (d *doctor) readOld(ctx context.Context, db *database, query string) (held []string, err error) {
	rows, err := db.dialect.Over(db.DB).QueryContext(ctx, query, int64(d.after.Seconds()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var what string
		var age int64
		if err := rows.Scan(&what, &age); err != nil {
			return nil, err
		}
		held = append(held, fmt.Sprintf("%s: for %v", what, time.Duration(age)*time.Second))
	}
	return held, rows.Err()
}

// master looks at the master's side.
func (d *doctor) master(ctx context.Context, db *database, file *configFile) {
	needs := map[string]need{
		"outbox": {"payload", everything}, "outbox_failures": {"last_error", everything}, "outbox_dead": {"error", everything},
		"outbox_tombstones": {"revision", everything}, "outbox_leases": {"holder", everything}, "outbox_relays": {"holder", everything},
		"outbox_shards": {"wanted", []string{"SELECT", "UPDATE"}},
	}
	if file.hasEntities() {
		err := file.checkEntities(ctx, db)
		d.judge("columns", err, "the entities' tables are as they have to be", "")
		for _, e := range file.Entities {
			needs[e.Table] = need{event.FieldRevision, []string{"SELECT", "UPDATE"}}
		}
		for _, e := range file.declared() {
			needs[e.Table] = need{event.FieldRevision, []string{"SELECT", "UPDATE"}}
		}
	}
	d.permissions(ctx, db, needs)
	a, err := relay.NewAdmin(db.DB, db.dialect)
	var o relay.Overview
	var failures []relay.Failure
	if err == nil {
		o, err = a.Overview(ctx)
	}
	if err == nil {
		failures, err = a.Failures(ctx, 0, 1)
	}
	switch {
	case err != nil:
		d.judge("stuck", err, "", "")
	case len(failures) > 0:
		d.outboxFindings(o, &failures[0])
	default:
		d.outboxFindings(o, nil)
	}
}

// replica looks at the replica's side.
func (d *doctor) replica(ctx context.Context, db *database, file *configFile) {
	needs := map[string]need{"replica_tombstones": {"revision", everything}, "replica_inbox": {"revision", everything}}
	if file.hasReplicas() {
		cfg, err := file.consuming()
		cfg.Dialect, cfg.TombstoneRetention = db.dialect, anyRetention
		var c *consumer.Consumer
		if err == nil {
			c, err = idleConsumer(db.DB, cfg)
		}
		if err == nil {
			err = file.addReplicas(c)
		}
		if err == nil {
			err = file.words(c.Check(ctx))
		}
		remedy := ""
		if file.hasEntities() && d.replicaURL == "" {
			remedy = "if the replicas have a database of their own, name it by --" + flagReplica
		}
		d.judge("columns", err, "the replicas' tables are as they have to be", remedy)
		if c != nil {
			d.warnings(ctx, file, c)
		}
		for _, r := range file.Replicas {
			needs[r.Table] = need{event.FieldRevision, everything}
		}
	}
	d.permissions(ctx, db, needs)
}

// need is what is done to a table, and a column of it.
type need struct {
	column string
	rights []string
}

var everything = []string{"DELETE", "INSERT", "SELECT", "UPDATE"}

// permissions tries what will be done, on no rows. Tables that are not there are
// reported elsewhere.
func (d *doctor) permissions(ctx context.Context, db *database, needs map[string]need) {
	var lacking []string
	for _, table := range slices.Sorted(maps.Keys(needs)) {
		statements := db.dialect.Privileges(table, needs[table].column)
		for _, right := range needs[table].rights {
			if err := rehearse(ctx, db.DB, statements[right]); dialect.IsForbidden(err) {
				lacking = append(lacking, right+" on "+table)
			}
		}
	}
	var err error
	if len(lacking) > 0 {
		err = errors.New("the account may not " + strings.Join(lacking, ", "))
	}
	d.judge("permissions", err, "the account may do all that is needed", "GRANT it")
}

// rehearse runs a statement and undoes it.
func rehearse(ctx context.Context, db *sql.DB, statement string) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	_, err = tx.ExecContext(ctx, statement)
	return err
}

// warnings notes what can part a replica from its master although nothing is wrong.
func (d *doctor) warnings(ctx context.Context, file *configFile, c *consumer.Consumer) {
	warnings, err := c.Warnings(ctx)
	if err != nil {
		return // Check has said so
	}
	for _, warning := range warnings {
		d.add("rows", levelNote, "", "%v", file.words(warning))
	}
}
