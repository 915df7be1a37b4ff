package dialect

import (
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-go/lockstep/event"
)

// mysqlParts are the expressions of the parts of a date or time, which are
// numbers but for date and time. A week is ISO 8601's.
var mysqlParts = map[string]string{
	"year":     "YEAR({c})",
	"quarter":  "QUARTER({c})",
	"month":    "MONTH({c})",
	"week":     "WEEK({c}, 3)",
	"day":      "DAYOFMONTH({c})",
	"week_day": "DAYOFWEEK({c})",
	"hour":     "HOUR({c})",
	"minute":   "MINUTE({c})",
	"second":   "SECOND({c})",
	"date":     "DATE({c})",
	"time":     "TIME({c})",
}

// mysqlLikeEscaper escapes what LIKE does not take literally. What a backslash
// stands for depends on the session's SQL mode.
var mysqlLikeEscaper = strings.NewReplacer(`|`, `||`, `%`, `|%`, `_`, `|_`)

// mysqlCondition: text is compared byte by byte, as the other databases do it,
// whatever the column's collation is.
func mysqlCondition(l Lookup, column, first, second string) string {
	if l.Column.Base == "timestamp" { // in UTC, as it is sent, whatever the session's time zone is
		column = "(CAST('1970-01-01' AS datetime(6)) + INTERVAL UNIX_TIMESTAMP(" + column + ") SECOND)"
	}
	expression := column
	if l.Part != "" {
		expression = strings.ReplaceAll(mysqlParts[l.Part], "{c}", column)
	}
	text := "CONVERT(CAST(" + expression + " AS CHAR) USING utf8mb4)"
	if l.Column.Collation != "" && l.Part == "" {
		text = "CONVERT(" + expression + " USING utf8mb4)"
		if !strings.HasSuffix(l.Column.Collation, "_bin") {
			expression = text + " COLLATE utf8mb4_bin"
		}
	}
	const bytes = " COLLATE utf8mb4_bin"
	utf8 := func(placeholder string) string { return "CONVERT(" + placeholder + " USING utf8mb4)" }
	switch l.Op {
	case "isnull":
		return expression + " IS NULL"
	case "notnull":
		return expression + " IS NOT NULL"
	case "in":
		return expression + " IN (SELECT " + mysqlOperand(l, "lockstep_v") + " FROM " + mysqlTexts(first) + ")"
	case "range":
		return expression + " BETWEEN " + mysqlOperand(l, first) + " AND " + mysqlOperand(l, second)
	case "iexact":
		return "UPPER(" + text + ")" + bytes + " = UPPER(" + utf8(first) + ")" + bytes
	case "contains", "startswith", "endswith":
		return text + bytes + " LIKE " + utf8(first) + bytes + " ESCAPE '|'"
	case "icontains", "istartswith", "iendswith":
		return "UPPER(" + text + ")" + bytes + " LIKE UPPER(" + utf8(first) + ")" + bytes + " ESCAPE '|'"
	}
	if l.Column.Base == "json" && l.Part == "" { // neither server compares these alike
		return "(JSON_CONTAINS(" + column + ", " + utf8(first) + ") AND JSON_CONTAINS(" + utf8(first) + ", " + column + "))"
	}
	return expression + comparisons[l.Op] + mysqlOperand(l, first)
}

// mysqlTexts turns a list parameter into rows lockstep_v.
func mysqlTexts(parameter string) string {
	return "JSON_TABLE(" + parameter + ", '$[*]' COLUMNS (lockstep_v varchar(4000) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin PATH '$')) AS lockstep_list"
}

// mysqlOperand is a value, which is text, as what it is compared with.
func mysqlOperand(l Lookup, value string) string {
	as := func(typ string) string { return "CAST(" + value + " AS " + typ + ")" }
	switch c := l.Column; {
	case l.Part == "date":
		return as("date")
	case l.Part == "time":
		return as("time(6)")
	case l.Part != "":
		return as("signed")
	case c.Base == "bit", mysqlInteger(c) && strings.Contains(c.Type, "unsigned"):
		return as("unsigned")
	case mysqlInteger(c), c.Base == "year":
		return as("signed")
	case c.Base == "decimal":
		return as("decimal(65,30)")
	case c.Base == "float", c.Base == "double":
		return as("double")
	case c.Base == "date":
		return as("date")
	case c.Base == "datetime", c.Base == "timestamp":
		return as("datetime(6)")
	case c.Base == "time":
		return as("time(6)")
	case c.Collation != "":
		return mysqlInCollation(c, value)
	}
	return value
}

// mysqlInCollation is text as a column that compares byte by byte has it.
func mysqlInCollation(c Column, value string) string {
	if !strings.HasSuffix(c.Collation, "_bin") {
		return "CONVERT(" + value + " USING utf8mb4) COLLATE utf8mb4_bin"
	}
	charset, _, _ := strings.Cut(c.Collation, "_")
	return "CONVERT(" + value + " USING " + charset + ") COLLATE " + c.Collation
}

// MySQLFilterValue returns a filter's value as a column's type reads it. MySQL
// would take what is none for zero, without an error.
func MySQLFilterValue(c Column, text string) (string, error) {
	switch {
	case mysqlInteger(c), c.Base == "year", c.Base == "bit":
		_, signed := strconv.ParseInt(text, 10, 64)
		if _, unsigned := strconv.ParseUint(text, 10, 64); signed != nil && unsigned != nil {
			return "", errors.New("use a whole number")
		}
	case c.Base == "decimal", c.Base == "float", c.Base == "double":
		if _, err := strconv.ParseFloat(text, 64); err != nil || strings.ContainsAny(text, "xXpP_nN") {
			return "", errors.New("use a number")
		}
	case c.Base == "date":
		if _, err := time.Parse(time.DateOnly, text); err != nil {
			return "", errors.New("use a date")
		}
	case c.Base == "datetime", c.Base == "timestamp":
		t, _, err := event.ParseTime(text)
		if err != nil {
			return "", errors.New("use a time")
		}
		return t.UTC().Format("2006-01-02 15:04:05.000000"), nil
	case c.Base == "uuid":
		digits := strings.ReplaceAll(text, "-", "")
		if _, err := hex.DecodeString(digits); err != nil || len(digits) != 32 {
			return "", errors.New("use a UUID")
		}
	}
	return text, nil
}
