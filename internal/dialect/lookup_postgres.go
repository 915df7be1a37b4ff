package dialect

import "strings"

// likeEscaper escapes what LIKE does not take literally.
var likeEscaper = strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)

// postgresParts are the expressions of the parts of a date or time, with their
// types. Times with a zone are looked at in UTC, as they are sent. The first day
// of a week_day is Sunday; a week is ISO 8601's.
var postgresParts = map[string]struct{ expression, typ string }{
	"year":     {"EXTRACT(YEAR FROM {c})::integer", "integer"},
	"quarter":  {"EXTRACT(QUARTER FROM {c})::integer", "integer"},
	"month":    {"EXTRACT(MONTH FROM {c})::integer", "integer"},
	"week":     {"EXTRACT(WEEK FROM {c})::integer", "integer"},
	"day":      {"EXTRACT(DAY FROM {c})::integer", "integer"},
	"week_day": {"(EXTRACT(DOW FROM {c})::integer + 1)", "integer"},
	"hour":     {"EXTRACT(HOUR FROM {c})::integer", "integer"},
	"minute":   {"EXTRACT(MINUTE FROM {c})::integer", "integer"},
	"second":   {"floor(EXTRACT(SECOND FROM {c}))::integer", "integer"},
	"date":     {"({c})::date", "date"},
	"time":     {"({c})::time", "time"},
}

func postgresCondition(l Lookup, column, first, second string) string {
	expression, typ := column, keyCast(l.Column)
	switch {
	case l.Part != "":
		if l.Column.Base == "timestamp with time zone" {
			column = "(" + column + " AT TIME ZONE 'UTC')"
		}
		part := postgresParts[l.Part]
		expression, typ = strings.ReplaceAll(part.expression, "{c}", column), part.typ
	case l.Column.Base == "json": // which has no equality
		expression, typ = column+"::jsonb", "jsonb"
	}
	switch l.Op {
	case "isnull":
		return expression + " IS NULL"
	case "notnull":
		return expression + " IS NOT NULL"
	case "in":
		among := expression + " = ANY (" + first + "::" + typ + "[])"
		if l.Part != "" || !l.Column.Unique {
			return among
		}
		// Lists of keys are mostly neighbours. The bounds keep a scan that is to
		// return rows in key order from beginning at the first key of the table.
		bound := "(SELECT x FROM unnest(" + first + "::" + typ + "[]) x ORDER BY x {order} LIMIT 1)"
		return among + " AND " + expression + " BETWEEN " + strings.Replace(bound, "{order}", "ASC", 1) +
			" AND " + strings.Replace(bound, "{order}", "DESC", 1)
	case "range":
		return expression + " BETWEEN " + first + "::" + typ + " AND " + second + "::" + typ
	case "iexact":
		return "upper(" + expression + "::text) = upper(" + first + "::text)"
	case "contains", "startswith", "endswith":
		return expression + "::text LIKE " + first + "::text"
	case "icontains", "istartswith", "iendswith":
		return "upper(" + expression + "::text) LIKE upper(" + first + "::text)"
	}
	return expression + comparisons[l.Op] + first + "::" + typ
}
