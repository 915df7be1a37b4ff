package consumer

import (
	"context"
	"database/sql"
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// sqlite applies a batch in one transaction, which is the only one that writes.
type sqlite struct {
	*decider
}

func (c *Consumer) newSQLite() *sqlite {
	anyKey := func(*dialect.Column, any) bool { return true } // its statements say whose row is whose
	return &sqlite{&decider{statements: c.newStatements(nil), dialect: dialect.SQLite, value: sqliteValue, plain: anyKey, rows: 50, pieces: 8}}
}

func (s *sqlite) apply(ctx context.Context, batch []*incoming, plan any) (result, error) {
	all := s.bounds(batch, plan)
	if err := s.prepareFor(ctx, all); err != nil {
		return result{}, err
	}
	r, err := s.together(ctx, all)
	if _, refused := refusedBy(err); refused {
		return s.apart(ctx, all)
	}
	return r, err
}

func (s *sqlite) together(ctx context.Context, all []*bound) (r result, err error) {
	err = s.transact(ctx, func(tx *sql.Tx) error {
		r, err = s.run(ctx, tx, all)
		return err
	})
	return r, err
}

// apart applies each message in a transaction of its own: for constraints that
// speak up at the commit, and for what rolls a transaction back. Those of a table
// come before those of the next, unless rows are made anew.
func (s *sqlite) apart(ctx context.Context, batch []*bound) (result, error) {
	all := result{isolated: true, stored: watch(batch)}
	parts := [][]*bound{batch}
	if len(lateDeletions(batch)) == 0 {
		parts = tables(batch)
	}
	for _, messages := range parts {
		for _, b := range messages {
			r, err := s.together(ctx, []*bound{b})
			cause, refused := refusedBy(err)
			switch {
			case err == nil:
				all.add(r.tally)
				all.failures = append(all.failures, r.failures...)
				if len(r.failures) == 0 {
					all.stored.note(b.in, r.stale == 0)
				}
			case refused:
				all.fail(b.in, b.in.fault(nil, nil, cause))
			default:
				return result{}, err // what is committed already will be a duplicate
			}
		}
	}
	all.settled()
	return all, nil
}

func (s *sqlite) within(ctx context.Context, tx *sql.Tx, batch []*incoming) (result, error) {
	all := s.bounds(batch, nil)
	if err := s.prepareFor(ctx, all); err != nil {
		return result{}, err
	}
	return s.run(ctx, tx, all)
}

// sqliteValue turns a JSON value into what SQLite is to store: a boolean into 1
// or 0, a number with all its digits, text as text, base64 into a blob where the
// column is one, and objects and arrays into their text.
func sqliteValue(column *dialect.Column, raw []byte) (any, error) {
	if event.IsNull(raw) {
		return nil, nil
	}
	switch raw[0] {
	case '"':
		return sqliteText(column, raw)
	case '{', '[':
		return string(raw), nil
	case 't':
		return int64(1), nil
	case 'f':
		return int64(0), nil
	}
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return n, nil
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || textual(column) || math.IsInf(f, 0) {
		return string(raw), nil //nolint:nilerr // what is no number is kept as it is
	}
	return f, nil
}

func sqliteText(column *dialect.Column, raw []byte) (any, error) {
	text, _ := event.Text(raw)
	switch column.Base {
	case "blob":
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("not base64: %w", err)
		}
		return b, nil
	case "uuid": // one spelling, since SQLite compares text
		if canonical, ok := canonicalUUID(text); ok {
			return canonical, nil
		}
	}
	return text, nil
}

// keepsDigits reports whether a number in the column would have all its digits: SQLite
// keeps large ones, and those with a fraction, as float64, where two keys may be one.
func keepsDigits(column *dialect.Column, raw []byte) bool {
	text, _ := event.Text(raw)
	if textual(column) || column.Base == "blob" {
		return true
	}
	f, err := strconv.ParseFloat(text, 64)
	if _, whole := strconv.ParseInt(text, 10, 64); err != nil || whole == nil {
		return true
	}
	return significant(strconv.FormatFloat(f, 'e', -1, 64)) == significant(text)
}

// significant returns a number's digits without the zeros around them.
func significant(number string) string {
	mantissa, _, _ := strings.Cut(strings.ToLower(number), "e")
	return strings.Trim(strings.Replace(strings.TrimLeft(mantissa, "+-"), ".", "", 1), "0")
}

// textual reports whether a column has text affinity
// (https://www.sqlite.org/datatype3.html, section 3.1).
func textual(column *dialect.Column) bool {
	if strings.Contains(column.Base, "int") {
		return false
	}
	return strings.Contains(column.Base, "char") || strings.Contains(column.Base, "clob") || strings.Contains(column.Base, "text")
}
