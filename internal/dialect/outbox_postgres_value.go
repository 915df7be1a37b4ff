package dialect

import (
	"strings"

	"github.com/lockstep-go/lockstep/event"
)

// postgresObject is the expression for a JSON object of named values.
func postgresObject(values []string) string {
	if len(values) == 0 {
		return "NULL::text"
	}
	return "(SELECT row_to_json(r.*)::text FROM (SELECT " + strings.Join(values, ", ") + ") r)"
}

// values names the columns with that prefix after what they are.
func (b postgresBuilder) values(prefix string, columns []Column) []string {
	values := make([]string, len(columns))
	for i, c := range columns {
		values[i] = b.value(prefix+itoa(i), c) + " AS " + Postgres.QuoteColumn(c.Name)
	}
	return values
}

func (b postgresBuilder) keyValues() []string { return b.values("c.k", b.Keys) }

// data is the row without its version, for events that are made in the process.
func (b postgresBuilder) data() string {
	if b.signal == event.Delete && !b.DeletedRows {
		return "NULL::text"
	}
	return postgresObject(b.values("c.f", b.Fields))
}

func (b postgresBuilder) tracked() string {
	if b.signal != event.Save {
		return "NULL::text"
	}
	return postgresObject(b.values("c.p", b.Tracked))
}

// unfit is the name of the first column whose value must not be sent.
func (b postgresBuilder) unfit() string {
	var cases strings.Builder
	if b.FiniteOnly && b.signal != event.Delete {
		for i, c := range b.Fields {
			finite := postgresFinite("c.f"+itoa(i), c)
			if finite == "" {
				finite = postgresFiniteElements("c.f"+itoa(i), c)
			}
			if finite != "" {
				cases.WriteString(" WHEN NOT (" + finite + ") THEN " + Postgres.QuoteText(c.Name))
			}
		}
	}
	if cases.Len() == 0 {
		return "NULL::text"
	}
	return "CASE" + cases.String() + " END"
}

// envelope is the expression for an event's body: constant text around what the
// database itself turns into JSON.
func (b postgresBuilder) envelope(correlation string) string {
	version := []string{
		"c.cqrs_revision AS " + event.FieldRevision,
		postgresTimestamptz("c.cqrs_updated") + " AS " + event.FieldUpdated,
	}
	var deleted []string
	if !b.keyNamedID() {
		id := b.value("c.k0", b.Keys[0])
		if len(b.Keys) > 1 {
			id = b.keyTexts("c.k")
		}
		deleted = append(deleted, id+" AS "+event.FieldDeletedKey)
	}
	deleted = append(append(deleted, b.keyValues()...), version...)
	if b.signal == event.Delete {
		return b.envelopeOf(event.Delete, deleted, correlation)
	}
	saved := b.envelopeOf(b.signal, append(b.values("c.f", b.Fields), version...), correlation)
	if b.Where == "" || b.LeaveSilently || b.signal == event.Sync {
		return saved
	}
	return "CASE WHEN c.inside THEN " + saved + " ELSE " + b.envelopeOf(event.Delete, deleted, correlation) + " END"
}

func (b postgresBuilder) envelopeOf(signal event.Signal, data []string, correlation string) string {
	n := Postgres
	head := event.AppendString([]byte(`{"signal_type":`), string(signal))
	head = event.AppendString(append(head, `,"cqrs_id":`...), b.CQRSID)
	head = append(head, `,"instance_data":`...)
	correlated := n.QuoteText(`,"correlation_id":null,"retries":0,"expires":`)
	if b.Correlated {
		correlated = n.QuoteText(`,"correlation_id":`) + " || " + correlation + " || " + n.QuoteText(`,"retries":0,"expires":`)
	}
	expires := n.QuoteText(`null`)
	if b.TTL > 0 {
		expires = `to_char((clock_timestamp() + interval '` + itoa(int(b.TTL)) + ` seconds') AT TIME ZONE 'UTC', '"\""YYYY-MM-DD"T"HH24:MI:SS"+00:00\""')`
	}
	return n.QuoteText(string(head)) + " || " + postgresObject(data) + " || " +
		n.QuoteText(`,"previous_data":null,"instance_pk":`) + " || " + b.pk(b.keyTexts("c.k")) + " || " +
		correlated + " || " + expires + " || " + n.QuoteText(`,"meta":{}}`)
}

// value is the expression that makes a column's value fit for the wire.
func (b postgresBuilder) value(column string, c Column) string {
	fit := postgresValue(column, c)
	if b.DecimalText {
		switch c.Base {
		case "numeric":
			fit = "(" + fit + ")::text"
		case "numeric[]":
			fit = column + "::text[]"
		}
	}
	if finite := postgresFinite(column, c); finite != "" {
		return "CASE WHEN " + finite + " THEN " + fit + " END"
	}
	return fit
}

// postgresFinite is the condition that JSON has a value for the column's, or
// nothing if it always has.
func postgresFinite(column string, c Column) string {
	switch c.Base {
	case "timestamp with time zone", "timestamp without time zone", "date":
		return "isfinite(" + column + ")"
	case "real", "double precision", "numeric":
		return column + " NOT IN ('NaN', 'Infinity', '-Infinity')"
	}
	return ""
}

// postgresFiniteElements is that condition for an array. Where nulls are sent in
// place of such values, its elements are sent as texts, which a replica reads back.
func postgresFiniteElements(column string, c Column) string {
	switch c.Base {
	case "timestamp with time zone[]", "timestamp without time zone[]", "date[]":
		return "NOT " + column + "::text[] && '{infinity,-infinity}'"
	case "real[]", "double precision[]", "numeric[]":
		return "NOT " + column + "::text[] && '{NaN,Infinity,-Infinity}'"
	}
	return ""
}

func postgresValue(column string, c Column) string {
	switch c.Base {
	case "timestamp with time zone":
		return postgresTimestamptz(column) + postgresEra(column, "timestamptz '0001-01-01 00:00:00+00'")
	case "timestamp without time zone":
		return "to_char(" + column + ", 'YYYY-MM-DD HH24:MI:SS.US')" + postgresEra(column, "timestamp '0001-01-01'")
	case "bytea":
		return "translate(encode(" + column + ", 'base64'), E'\\n', '')"
	case "money": // its text depends on the session's locale
		return column + "::numeric"
	}
	if name := c.Base[strings.LastIndexByte(c.Base, '.')+1:]; name == "hstore" {
		return column + "::text" // its cast to json gives what it cannot read back
	}
	return column
}

// postgresEra is the expression that marks times before the first year, as the
// database reads them.
func postgresEra(column, first string) string {
	return " || CASE WHEN " + column + " < " + first + " THEN ' BC' ELSE '' END"
}

func postgresTimestamptz(column string) string {
	return "to_char(" + column + " AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US\"+00:00\"')"
}
