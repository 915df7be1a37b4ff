package outbox

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

const utcOffset = "+00:00"

// changeMySQL does an operation to rows in several statements, and returns them
// in the order of the keys.
func (tx *Tx) changeMySQL(ctx context.Context, p *plan, op operation, keys []string) ([]changed, error) {
	found, err := tx.lockMySQL(ctx, p, op, keys)
	if err != nil {
		return nil, err
	}
	own := slices.DeleteFunc(slices.Clone(found), func(row changed) bool { return row.twin })
	if len(own) == 0 {
		return nil, nil
	}
	if err := tx.readTombstones(ctx, p, own); err != nil {
		return nil, err
	}
	list := p.mysqlList(own)
	if op.sql.Write != "" {
		if _, err := tx.ExecContext(ctx, op.sql.Write, list); err != nil {
			return nil, err
		}
	}
	all, err := tx.readMySQL(ctx, op.sql.Change, list, tx.ob.newRowScan(p, op, nil))
	if err != nil {
		return nil, err
	}
	if op.sql.After != "" {
		if _, err := tx.ExecContext(ctx, op.sql.After, list); err != nil {
			return nil, err
		}
	}
	if err := tx.buryMySQL(ctx, p, op, all); err != nil {
		return nil, err
	}
	for _, row := range found {
		if row.twin {
			all = append(all, row)
		}
	}
	slices.SortFunc(all, func(a, b changed) int { return cmp.Compare(a.at, b.at) })
	return all, nil
}

// lockMySQL locks the rows of the keys in key order, and returns them with the
// keys' texts as the database spells them. Several keys may be one row's: a
// collation may take no notice of trailing spaces.
func (tx *Tx) lockMySQL(ctx context.Context, p *plan, op operation, keys []string) ([]changed, error) {
	rows, err := tx.tx.QueryContext(ctx, op.sql.Lock, tx.list(p, keys))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	scan := tx.ob.newRowScan(p, operation{}, nil)
	var all []changed
	for rows.Next() {
		row, err := scan.trackedRow(rows)
		if err != nil {
			return nil, err
		}
		if len(row.key) > maxMySQLKey {
			return nil, &RowError{Entity: p.ID, Keys: []string{row.key}, Err: fmt.Errorf("%w: it has %d bytes, and at most %d can be kept", ErrKey, len(row.key), maxMySQLKey)}
		}
		all = append(all, row)
	}
	slices.SortFunc(all, func(a, b changed) int { return cmp.Compare(a.at, b.at) })
	seen := make(map[string]bool, len(all))
	for i := range all {
		all[i].twin = seen[all[i].key]
		seen[all[i].key] = true
	}
	return all, rows.Err()
}

// readTombstones adds what is known of the keys' earlier rows. It reads what is
// committed, and has to come behind the rows' locks: then nobody else deletes.
func (tx *Tx) readTombstones(ctx context.Context, p *plan, found []changed) error {
	rows, err := tx.tx.QueryContext(ctx, p.sql.Tombstones, p.mysqlList(found))
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	places := make(map[int]int, len(found))
	for i := range found {
		places[found[i].at] = i
	}
	for rows.Next() {
		var at int
		var revision int64
		var deleted string
		if err := rows.Scan(&at, &revision, &deleted); err != nil {
			return err
		}
		row := &found[places[at]]
		row.revision, row.updated = revision, deleted
	}
	return rows.Err()
}

// maxMySQLKey is how many bytes a tombstone has room for.
const maxMySQLKey = 2800

func (tx *Tx) readMySQL(ctx context.Context, query, list string, scan *rowScan) (all []changed, err error) {
	rows, err := tx.tx.QueryContext(ctx, query, list)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		row, err := scan.changed(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

// buryMySQL remembers of rows that replicas do not have them any more.
func (tx *Tx) buryMySQL(ctx context.Context, p *plan, op operation, rows []changed) error {
	var args []any
	for i := range rows {
		if row := &rows[i]; p.buries(op, row) {
			args = append(args, p.ID, []byte(row.key), row.revision, strings.TrimSuffix(row.updated, utcOffset))
		}
	}
	for part := range slices.Chunk(args, maxMySQLRows*4) {
		if _, err := tx.tx.ExecContext(ctx, dialect.MySQLRows(dialect.MySQLBury, len(part)/4), part...); err != nil {
			return err
		}
	}
	return nil
}

// list is keys as the parameter of the entity's statements.
func (tx *Tx) list(p *plan, keys []string) string {
	if tx.ob.dialect != MySQL {
		return tx.ob.dialect.Texts(keys)
	}
	rows := make([]changed, len(keys))
	for i, key := range keys {
		rows[i] = changed{at: i, key: key}
	}
	return p.mysqlList(rows)
}

// mysqlList is rows by their keys, in key order: each its place, the key's text,
// the version of its tombstone and the texts of the key's columns.
func (p *plan) mysqlList(rows []changed) string {
	type entry struct {
		*changed
		parts []string
	}
	entries := make([]entry, len(rows))
	for i := range rows {
		entries[i] = entry{&rows[i], []string{rows[i].key}}
		if len(p.keys) > 1 {
			_ = json.Unmarshal([]byte(rows[i].key), &entries[i].parts) // made by keyText
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		for i := range a.parts {
			if c := compareKeys(a.parts[i], b.parts[i]); c != 0 {
				return c
			}
		}
		return 0
	})
	list := []byte{'['}
	for i, e := range entries {
		if i > 0 {
			list = append(list, ',')
		}
		list = append(strconv.AppendInt(append(list, '['), int64(e.at), 10), ',')
		list = event.AppendString(list, e.key)
		if e.updated == "" {
			list = append(list, ",null,null"...)
		} else {
			list = strconv.AppendInt(append(list, ','), e.revision, 10)
			list = event.AppendString(append(list, ','), e.updated)
		}
		for j, part := range e.parts {
			if strings.HasSuffix(p.keys[j].Base, "int") {
				part = strings.TrimPrefix(strings.TrimSpace(part), "+")
			}
			list = event.AppendString(append(list, ','), part)
		}
		list = append(list, ']')
	}
	return string(append(list, ']'))
}

// compareKeys puts integers in their order and texts in that of their bytes. Any
// order would do that is the same for every transaction.
func compareKeys(a, b string) int {
	x, notX := strconv.ParseInt(a, 10, 64)
	y, notY := strconv.ParseInt(b, 10, 64)
	if notX == nil && notY == nil {
		return cmp.Or(cmp.Compare(x, y), strings.Compare(a, b))
	}
	return strings.Compare(a, b)
}

// integer reads a number as either of MySQL's protocols brings it.
func integer(value any) (int64, bool) {
	switch v := value.(type) {
	case int64:
		return v, true
	case uint64:
		return int64(v), v <= math.MaxInt64 //nolint:gosec // said
	case []byte:
		n, err := strconv.ParseInt(string(v), 10, 64)
		return n, err == nil
	}
	return 0, false
}

// checkMySQL reports columns of an entity that cannot be what they are to be.
func (p *plan) checkMySQL() error {
	var faults []error
	fault := func(c dialect.Column, what string) {
		faults = append(faults, fmt.Errorf("outbox: entity %s: table %s: column %s %s", p.ID, p.Table, c.Name, what))
	}
	sent := slices.Concat(p.fields, p.tracked)
	for i, c := range sent {
		if dialect.MySQLGeometry(c) && !slices.ContainsFunc(sent[:i], func(o dialect.Column) bool { return o.Name == c.Name }) {
			fault(c, "is "+c.Type+", which has no form on the wire: name the other columns in Fields")
		}
	}
	if c := p.table.Column(event.FieldRevision); c.Base != "bigint" && c.Base != "int" {
		fault(*c, "is "+c.Type+": make it bigint")
	}
	if c := p.table.Column(event.FieldUpdated); c.Type != "datetime(6)" {
		fault(*c, "is "+c.Type+": make it datetime(6)")
	}
	return errors.Join(faults...)
}

// checkSession reports settings of a MySQL session under which the outbox would
// get other texts than it is given.
func (ob *Outbox) checkSession(ctx context.Context, db *sql.DB) error {
	if ob.dialect != MySQL {
		return nil
	}
	var mode, charset string
	var winter, summer int64 // of no concern: a timestamp is read as seconds
	if err := db.QueryRowContext(ctx, dialect.MySQLSession).Scan(&mode, &charset, &winter, &summer); err != nil {
		return fmt.Errorf("outbox: read the session's settings: %w", err)
	}
	var faults []error
	if !strings.Contains(mode, "STRICT_TRANS_TABLES") && !strings.Contains(mode, "STRICT_ALL_TABLES") {
		faults = append(faults, errors.New("outbox: the session's sql_mode is not strict, so what does not fit would be cut: "+
			"add sql_mode='STRICT_TRANS_TABLES' to the data source name"))
	}
	if charset != "utf8mb4" {
		faults = append(faults, fmt.Errorf("outbox: the session's character set is %s: add charset=utf8mb4 to the data source name", charset))
	}
	return errors.Join(faults...)
}
