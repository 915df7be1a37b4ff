package dialect

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/lockstep-go/lockstep/event"
)

// ErrNotText is returned for text that is not UTF-8.
var ErrNotText = errors.New("it is not UTF-8, so JSON cannot carry it: store it as a BLOB")

// AppendMySQLValue appends a value as JSON, as the statements' expressions return
// it for a column's type. Decimals become texts if they are to.
func AppendMySQLValue(dst []byte, value any, c Column, decimalText bool) ([]byte, error) {
	if value == nil || MySQLZeroTime(c, value) {
		return append(dst, "null"...), nil
	}
	text := MySQLValueText(value)
	if strings.Contains(c.Type, "zerofill") {
		text = withoutZeros(text)
	}
	switch c.Base {
	case "tinyint", "bit":
		if isBool := c.IsTinyBool() || c.Type == "bit(1)"; isBool && (text == "0" || text == "1") {
			return strconv.AppendBool(dst, text == "1"), nil
		}
		return append(dst, text...), nil
	case "smallint", "mediumint", "int", "bigint":
		return append(dst, text...), nil
	case "year":
		return append(dst, withoutZeros(text)...), nil
	case "decimal":
		if decimalText {
			return event.AppendString(dst, text), nil
		}
		return append(dst, text...), nil
	case "float", "double":
		return appendMySQLFloat(dst, text, c.Base == "float")
	case "timestamp":
		t, err := unixTime(text)
		if err != nil {
			return nil, err
		}
		return event.AppendString(dst, event.FormatTime(t)), nil
	case "datetime":
		const digits = "2006-01-02 15:04:05.000000"
		if len(text) == len(time.DateTime) {
			text += "."
		}
		return event.AppendString(dst, text+strings.Repeat("0", max(0, len(digits)-len(text)))), nil
	case "binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob":
		return event.AppendString(dst, base64.StdEncoding.EncodeToString([]byte(text))), nil
	case "json":
		if json.Valid([]byte(text)) {
			return append(dst, text...), nil
		}
	}
	if !utf8.ValidString(text) {
		return nil, ErrNotText
	}
	return event.AppendString(dst, text), nil
}

// withoutZeros drops the zeros in front of a number, which JSON does not have.
func withoutZeros(text string) string {
	digits := strings.TrimLeft(text, "0")
	if digits == "" || digits[0] == '.' {
		return "0" + digits
	}
	return digits
}

// MySQLZeroTime reports whether a value is one of MySQL's dates that are none, such as
// 0000-00-00.
func MySQLZeroTime(c Column, value any) bool {
	switch c.Base {
	case "timestamp":
		return strings.Trim(MySQLValueText(value), "0.") == ""
	case "date", "datetime":
		text := MySQLValueText(value)
		return len(text) >= len(time.DateOnly) && (text[5:7] == "00" || text[8:10] == "00")
	}
	return false
}

// MySQLValueText is a value's text, whichever protocol has brought it.
func MySQLValueText(value any) string {
	switch v := value.(type) {
	case []byte:
		return string(v)
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	case float32:
		return strconv.FormatFloat(float64(v), 'g', -1, 32)
	}
	return fmt.Sprint(value)
}

// appendMySQLFloat appends the shortest number that is this one.
func appendMySQLFloat(dst []byte, text string, single bool) ([]byte, error) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, err
	}
	if single && math.Abs(f) < 3.402823e38 { // beyond, fewer digits are more than a float holds, which MySQL refuses
		return strconv.AppendFloat(dst, f, 'g', -1, 32), nil
	}
	return strconv.AppendFloat(dst, f, 'g', -1, 64), nil
}

// unixTime reads seconds since 1970 with their fraction.
func unixTime(text string) (time.Time, error) {
	seconds, fraction, _ := strings.Cut(text, ".")
	s, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return time.Time{}, err
	}
	fraction = (fraction + "000000")[:6]
	micros, err := strconv.ParseInt(fraction, 10, 64)
	return time.Unix(s, micros*1000), err
}
