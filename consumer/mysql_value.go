package consumer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// mysqlValue turns a JSON value into what MySQL is to store. What MySQL would
// bend to a column's type without a word is refused here, as PostgreSQL would;
// lengths, ranges and members of an enum are left to its strict mode.
func mysqlValue(column *dialect.Column, raw []byte) (any, error) {
	if event.IsNull(raw) {
		return nil, nil
	}
	text, scalar := event.Text(raw)
	switch column.Base {
	case "json":
		return string(raw), nil
	case "char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set":
		if !scalar {
			return string(raw), nil
		}
		return text, nil
	}
	if !scalar {
		return nil, errors.New("neither object nor array fits")
	}
	switch column.Base {
	case "tinyint", "smallint", "mediumint", "int", "bigint", "bit", "year":
		return mysqlInteger(column, text)
	case "decimal", "float", "double":
		return mysqlNumber(text)
	case "date":
		return mysqlDate(text)
	case "datetime", "timestamp":
		t, _, err := event.ParseTime(text)
		if err != nil {
			return nil, err
		}
		return dialect.MySQL.Time(t), nil
	case "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob":
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("not base64: %w", err)
		}
		return b, nil
	case "uuid":
		canonical, ok := canonicalUUID(text)
		if !ok {
			return nil, errors.New("not a UUID")
		}
		return canonical, nil
	}
	return text, nil
}

// mysqlInteger reads a whole number, which MySQL would round to. A boolean is a
// tinyint(1) there.
func mysqlInteger(column *dialect.Column, text string) (any, error) {
	text = strings.TrimSpace(text)
	if column.IsTinyBool() || column.Type == "bit(1)" {
		if isBool(text) {
			return boolText(text), nil
		}
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return nil, errors.New("not a whole number")
	}
	if n <= math.MaxInt64 {
		return int64(n), nil
	}
	return n, nil
}

func boolText(text string) int64 {
	switch strings.ToLower(text) {
	case "true", "t", "yes", "on", "1":
		return 1
	}
	return 0
}

// mysqlNumber passes a number's digits on. MySQL reads them to the end or refuses
// them; an exponent and leading spaces are its own to read.
func mysqlNumber(text string) (any, error) {
	text = strings.TrimSpace(text)
	if _, err := strconv.ParseFloat(text, 64); err != nil && !errors.Is(err, strconv.ErrRange) {
		return nil, errors.New("not a number")
	}
	if strings.ContainsAny(text, "xXpP_nN") { // Go's own spellings, NaN and infinity
		return nil, errors.New("not a number")
	}
	return text, nil
}

// mysqlDate takes a date, or the date of a time as it stands there.
func mysqlDate(text string) (any, error) {
	if _, _, err := event.ParseTime(text); err != nil {
		return nil, err
	}
	day := text[:len(time.DateOnly)]
	if _, err := time.Parse(time.DateOnly, day); err != nil {
		return nil, err
	}
	return day, nil
}
