package consumer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// mysqlSession reports settings of the data source name under which MySQL would
// store other values than those of the messages, without a word.
func (c *Consumer) mysqlSession(ctx context.Context, replicas map[string]*replica) (faults, err error) {
	tables := func(r *replica) bool { return r.entity.handler == nil }
	if c.dialect != dialect.MySQL || !slices.ContainsFunc(slices.Collect(maps.Values(replicas)), tables) {
		return nil, nil
	}
	var mode, charset string
	var winter, summer int64
	if err := c.db.QueryRowContext(ctx, dialect.MySQLSession).Scan(&mode, &charset, &winter, &summer); err != nil {
		return nil, fmt.Errorf("consumer: read the session's settings: %w", err)
	}
	var found []error
	if !strings.Contains(mode, "STRICT_TRANS_TABLES") && !strings.Contains(mode, "STRICT_ALL_TABLES") {
		found = append(found, errors.New("consumer: the session's sql_mode is not strict, so values that do not fit "+
			"would be cut: add sql_mode='STRICT_TRANS_TABLES' to the data source name"))
	}
	if charset != "utf8mb4" {
		found = append(found, fmt.Errorf("consumer: the session's character set is %s: add charset=utf8mb4 to the data source name", charset))
	}
	if winter != 0 || summer != 0 {
		for _, r := range replicas {
			if column := r.timestamp(); column != "" {
				found = append(found, fmt.Errorf("consumer: entity %q: column %s of table %s is a timestamp, whose values MySQL shifts by "+
					"the session's time zone: make it datetime(6), or add time_zone='+00:00' to the data source name", r.entity.id, column, r.Table))
			}
		}
	}
	return errors.Join(found...), nil
}

// timestamp returns the first column of that type, or nothing.
func (r *replica) timestamp() string {
	for slot := slotKey; slot < r.slots(); slot++ {
		if column := r.column(slot); column.Base == "timestamp" {
			return column.Name
		}
	}
	return ""
}

// mysqlColumns reports columns that cannot hold what they are to hold.
func mysqlColumns(table *dialect.Table, keys []string, written map[string]bool) []error {
	var faults []error
	for _, column := range table.Columns {
		geometry := []string{"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geometrycollection"}
		switch {
		case written[column.Name] && slices.Contains(geometry, column.Base):
			faults = append(faults, fmt.Errorf("column %s is %s, which has no form on the wire: leave it out of Columns", column.Name, column.Base))
		case slices.Contains(keys, column.Name) && column.Collation != "" && !strings.HasSuffix(column.Collation, "_bin"):
			faults = append(faults, fmt.Errorf("key column %s takes different keys for one (collation %s): give it COLLATE utf8mb4_bin", column.Name, column.Collation))
		case column.Name == event.FieldRevision && column.Base != "bigint" && column.Base != "int":
			faults = append(faults, fmt.Errorf("column %s is %s: make it bigint", column.Name, column.Type))
		case column.Name == event.FieldUpdated && column.Type != "datetime(6)":
			faults = append(faults, fmt.Errorf("column %s is %s: make it datetime(6)", column.Name, column.Type))
		}
	}
	return faults
}
