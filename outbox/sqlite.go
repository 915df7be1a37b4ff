package outbox

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// bury remembers that replicas do not have the row any more, as of its revision.
func (tx *Tx) bury(ctx context.Context, p *plan, row *changed) error {
	_, err := tx.ExecContext(ctx, dialect.SQLiteBury, p.ID, row.key, row.revision, row.updated)
	return err
}

func nonFinite(value any) bool {
	f, ok := value.(float64)
	return ok && (math.IsNaN(f) || math.IsInf(f, 0))
}

// appendSQLiteValue appends a value as JSON. SQLite has no types of columns, only
// declarations, so the declared type tells a boolean from an integer, JSON and
// times from text.
func appendSQLiteValue(dst []byte, value any, declared string) ([]byte, error) {
	switch v := value.(type) {
	case nil:
		return append(dst, "null"...), nil
	case int64:
		if strings.Contains(declared, "bool") {
			return strconv.AppendBool(dst, v != 0), nil
		}
		return strconv.AppendInt(dst, v, 10), nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return append(dst, "null"...), nil
		}
		return strconv.AppendFloat(dst, v, 'g', -1, 64), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case time.Time:
		if declared == "date" {
			return event.AppendString(dst, v.Format(time.DateOnly)), nil
		}
		return event.AppendString(dst, event.FormatTime(v)), nil
	case []byte:
		if declared == "json" || declared == "jsonb" {
			return appendSQLiteValue(dst, string(v), declared)
		}
		return event.AppendString(dst, base64.StdEncoding.EncodeToString(v)), nil
	case string:
		if declared == "json" && json.Valid([]byte(v)) {
			return append(dst, v...), nil
		}
		if !utf8.ValidString(v) {
			return nil, dialect.ErrNotText
		}
		return event.AppendString(dst, v), nil
	}
	return nil, fmt.Errorf("%T cannot be sent", value)
}

// wireTime is the time of the row's version.
func (s *rowScan) wireTime() string {
	switch v := s.updated.(type) {
	case time.Time: // a column declared as DATETIME
		return event.FormatTime(v)
	case []byte: // MySQL's datetime(6), in UTC
		return string(v) + utcOffset
	}
	if s.mysql {
		return fmt.Sprint(s.updated) + utcOffset
	}
	return fmt.Sprint(s.updated)
}
