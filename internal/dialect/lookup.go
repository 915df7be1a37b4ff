package dialect

// Lookup is one condition of a filter, in django-cqrs's words: a column, a part
// of it when it is a date or a time, and what the part or the column is to meet.
type Lookup struct {
	Column Column
	// Part is "" for the column itself, or one of year, quarter, month, week,
	// day, week_day, hour, minute, second, date and time.
	Part string
	// Op is exact, gt, gte, lt, lte, range, in, isnull or one of the text lookups.
	Op string
}

// Condition returns the SQL of a lookup. column is how the statement names the
// column; first and second are the placeholders of its parameters: none for
// isnull and notnull, two for range, one for all others. The parameter of in is a
// list as [Name.Texts] makes it, that of a text lookup is what [Name.Pattern]
// makes.
func (n Name) Condition(l Lookup, column, first, second string) string {
	switch n {
	case MySQL:
		return mysqlCondition(l, column, first, second)
	case SQLite:
		return sqliteCondition(l, column, first, second)
	}
	return postgresCondition(l, column, first, second)
}

// Pattern returns the parameter of a text lookup. What LIKE reads as wildcards is
// escaped.
func (n Name) Pattern(op, text string) string {
	if n == SQLite && !caseless(op) {
		return text // these do not use LIKE, which knows no case there
	}
	escaped := likeEscaper.Replace(text)
	if n == MySQL {
		escaped = mysqlLikeEscaper.Replace(text)
	}
	switch op {
	case "contains", "icontains":
		return "%" + escaped + "%"
	case "startswith", "istartswith":
		return escaped + "%"
	case "endswith", "iendswith":
		return "%" + escaped
	}
	if n == SQLite {
		return escaped // iexact is a LIKE there
	}
	return text
}

// Placeholder returns the name of the parameter with this number, from 1. On MySQL
// the statement goes through [Name.Over].
func (n Name) Placeholder(number int) string {
	if n != Postgres {
		return "?" + itoa(number)
	}
	return "$" + itoa(number)
}

// comparisons are the lookups that are an operator in every dialect.
var comparisons = map[string]string{"exact": " = ", "gt": " > ", "gte": " >= ", "lt": " < ", "lte": " <= "}

func caseless(op string) bool { return op[0] == 'i' && op != "in" && op != "isnull" }
