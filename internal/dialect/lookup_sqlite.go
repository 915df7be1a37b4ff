package dialect

import "strings"

// sqliteParts are the expressions of the parts of a date or time. The outermost
// CAST makes SQLite compare a parameter, which is text, as a number.
var sqliteParts = map[string]string{
	"year":     "CAST(strftime('%Y', {c}) AS INTEGER)",
	"quarter":  "CAST((CAST(strftime('%m', {c}) AS INTEGER) + 2) / 3 AS INTEGER)",
	"month":    "CAST(strftime('%m', {c}) AS INTEGER)",
	"week":     "CAST(strftime('%V', {c}) AS INTEGER)",
	"day":      "CAST(strftime('%d', {c}) AS INTEGER)",
	"week_day": "CAST(strftime('%w', {c}) + 1 AS INTEGER)",
	"hour":     "CAST(strftime('%H', {c}) AS INTEGER)",
	"minute":   "CAST(strftime('%M', {c}) AS INTEGER)",
	"second":   "CAST(strftime('%S', {c}) AS INTEGER)",
	"date":     "date({c})",
	"time":     "time({c})",
}

// sqliteCondition: LIKE knows no case for ASCII letters and no other case at
// all, so that the lookups that tell case do not use it.
func sqliteCondition(l Lookup, column, first, second string) string {
	expression := column
	if l.Part != "" {
		expression = strings.ReplaceAll(sqliteParts[l.Part], "{c}", column)
		if l.Part == "date" || l.Part == "time" {
			first, second = l.Part+"("+first+")", l.Part+"("+second+")"
		}
	}
	text := "CAST(" + expression + " AS TEXT)"
	switch l.Op {
	case "isnull":
		return expression + " IS NULL"
	case "notnull":
		return expression + " IS NOT NULL"
	case "in":
		if l.Part == "date" || l.Part == "time" {
			list := strings.TrimSuffix(strings.TrimPrefix(first, l.Part+"("), ")")
			return expression + " IN (SELECT " + l.Part + "(value) FROM json_each(" + list + "))"
		}
		return expression + " IN (SELECT value FROM json_each(" + first + "))"
	case "range":
		return expression + " BETWEEN " + first + " AND " + second
	case "contains":
		return "instr(" + text + ", " + first + ") > 0"
	case "startswith":
		return "substr(" + text + ", 1, length(" + first + ")) = " + first
	case "endswith":
		return "substr(" + text + ", length(" + text + ") - length(" + first + ") + 1) = " + first
	case "iexact", "icontains", "istartswith", "iendswith":
		return text + " LIKE " + first + ` ESCAPE '\'`
	}
	return expression + comparisons[l.Op] + first
}
