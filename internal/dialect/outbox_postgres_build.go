package dialect

import (
	"strconv"
	"strings"

	"github.com/lockstep-go/lockstep/event"
)

// postgresBuilder fills the templates for one entity.
type postgresBuilder struct {
	EntityTable
	signal event.Signal
}

// parameters says which a statement has beside the keys.
type parameters int

const (
	keysOnly   parameters = iota
	withEvents            // the event ids, the metadata without them
	oneEvent              // the metadata
	withTopic             // the event ids, the topic and the metadata
)

// build fills a template. The correlation id is the parameter behind the others.
func (b postgresBuilder) build(template string, p parameters) string {
	n := Postgres
	lists, names, mark := "$1::text[], $2::text[]", "k, event_id", "m.event_id, m.ord"
	if p == keysOnly {
		lists, names, mark = "$1::text[]", "k", "m.ord"
	}
	correlation := map[parameters]string{keysOnly: "NULL", oneEvent: "$3::text", withEvents: "$4::text", withTopic: "$5::text"}[p]
	keys := b.keyTexts("c.k")
	values := []string{
		"{table}", n.Quote(b.Table),
		"{entity}", n.QuoteText(b.CQRSID),
		"{topic}", n.QuoteText(event.Topic(b.CQRSID)),
		"{event_id_header}", n.QuoteText(event.HeaderEventID),
		"{payload}", b.payload(),
		"{where}", b.Where,
		"{lists}", lists, "{list_names}", names, "{mark}", mark,
		"{marked_keys}", b.markedKeys("m.k"), "{one_key}", b.markedKeys("$1::text"),
		"{marked_text}", b.keyTexts("m.k"), "{marked_columns}", b.markedColumns(),
		"{match}", b.match(),
		"{key_text}", keys,
		"{pk}", b.pk(keys),
		"{key_object}", postgresObject(b.keyValues()),
		"{returning}", b.returning(true, b.signal == event.Save),
		"{returning_deleted}", b.returning(b.DeletedRows, false),
		"{updated}", postgresTimestamptz("c.cqrs_updated"),
		"{data}", b.data(), "{tracked}", b.tracked(), "{unfit}", b.unfit(),
		"{row_text}", b.rowText(), "{row_tracked}", b.rowTracked(), "{row_keys}", strings.Join(b.rowKeys(), ", "),
		"{inside}", b.inside(), "{fresh}", postgresFresh,
		"{wanted}", b.wanted(), "{sent}", b.sent(),
		"{envelope}", b.envelope(correlation),
	}
	// These hold placeholders themselves.
	inner := strings.NewReplacer("{next_revision}", postgresNextRevision, "{next_updated}", postgresNextUpdated)
	return strings.NewReplacer(values...).Replace(inner.Replace(template))
}

// markedKeys takes the columns of a key out of its text.
func (b postgresBuilder) markedKeys(text string) string {
	keys := b.castKeys(text)
	for i := range keys {
		keys[i] += " AS k" + itoa(i)
	}
	return strings.Join(keys, ", ")
}

func (b postgresBuilder) markedColumns() string {
	columns := make([]string, len(b.Keys))
	for i := range columns {
		columns[i] = "m.k" + itoa(i)
	}
	return strings.Join(columns, ", ")
}

func (b postgresBuilder) castKeys(text string) []string {
	if len(b.Keys) == 1 {
		return []string{"CAST(" + text + " AS " + keyCast(b.Keys[0]) + ")"}
	}
	keys := make([]string, len(b.Keys))
	for i, k := range b.Keys {
		keys[i] = "CAST(" + text + "::json ->> " + itoa(i) + " AS " + keyCast(k) + ")"
	}
	return keys
}

// keyTexts is the expression for the key as text, from columns with that prefix:
// of several columns it is the JSON array of their texts.
func (b postgresBuilder) keyTexts(prefix string) string {
	if len(b.Keys) == 1 {
		return postgresKeyText(prefix+"0", b.Keys[0])
	}
	texts := make([]string, len(b.Keys))
	for i, k := range b.Keys {
		texts[i] = "to_json(" + postgresKeyText(prefix+itoa(i), k) + ")::text"
	}
	return "('[' || " + strings.Join(texts, " || ',' || ") + " || ']')"
}

func (b postgresBuilder) match() string {
	terms := make([]string, len(b.Keys))
	for i, k := range b.Keys {
		terms[i] = "t." + Postgres.QuoteColumn(k.Name) + " = m.k" + itoa(i)
	}
	return strings.Join(terms, " AND ")
}

func (b postgresBuilder) pk(text string) string {
	if len(b.Keys) == 1 {
		return "to_json(" + b.value("c.k0", b.Keys[0]) + ")::text"
	}
	return "to_json(" + text + ")::text"
}

// postgresKeyText is a key's column as text, the same in every session: a key's
// tombstone and the order of its events hang on it.
func postgresKeyText(column string, c Column) string {
	if c.Base == "timestamp with time zone" {
		return "CASE WHEN isfinite(" + column + ") THEN " + postgresValue(column, c) + " ELSE " + column + "::text END"
	}
	return column + "::text"
}

func (b postgresBuilder) rowKeys() []string {
	keys := make([]string, len(b.Keys))
	for i, k := range b.Keys {
		keys[i] = "t." + Postgres.QuoteColumn(k.Name)
	}
	return keys
}

// rowText is keyTexts from the table itself.
func (b postgresBuilder) rowText() string {
	if len(b.Keys) == 1 {
		return postgresKeyText("t."+Postgres.QuoteColumn(b.Keys[0].Name), b.Keys[0])
	}
	texts := make([]string, len(b.Keys))
	for i, k := range b.Keys {
		texts[i] = "to_json(" + postgresKeyText("t."+Postgres.QuoteColumn(k.Name), k) + ")::text"
	}
	return "'[' || " + strings.Join(texts, " || ',' || ") + " || ']'"
}

func (b postgresBuilder) rowTracked() string {
	values := make([]string, len(b.Tracked))
	for i, c := range b.Tracked {
		q := Postgres.QuoteColumn(c.Name)
		values[i] = b.value("t."+q, c) + " AS " + q
	}
	return postgresObject(values)
}

func (b postgresBuilder) returning(fields, tracked bool) string {
	var columns []string
	add := func(prefix string, list []Column) {
		for i, c := range list {
			columns = append(columns, "t."+Postgres.QuoteColumn(c.Name)+" AS "+prefix+itoa(i))
		}
	}
	add("k", b.Keys)
	if fields {
		add("f", b.Fields)
	}
	if tracked {
		add("p", b.Tracked)
	}
	return strings.Join(columns, ", ")
}

// inside evaluates the condition in a row that has nothing but the table's columns.
func (b postgresBuilder) inside() string {
	if b.Where == "" {
		return "true"
	}
	return "COALESCE((SELECT (" + b.Where + "\n) FROM (SELECT t.*) AS lockstep_row), false)"
}

// payload refuses events that are too large. SQL has no other way to fail than to
// do what cannot be done; [TooLarge] reads the error.
func (b postgresBuilder) payload() string {
	return "CASE WHEN octet_length(e.payload) <= " + strconv.FormatInt(b.MaxPayload, 10) + " THEN e.payload ELSE " +
		"convert_to(CAST('" + tooLarge + "' || octet_length(e.payload) || ' ' || e.key AS bigint)::text, 'UTF8') END"
}

// sent tells which changed rows have an event.
func (b postgresBuilder) sent() string {
	if b.LeaveSilently {
		return "c.inside"
	}
	return "c.inside OR NOT c.fresh"
}

func (b postgresBuilder) wanted() string {
	if b.Where == "" || b.signal == event.Delete {
		return ""
	}
	return " WHERE " + b.sent()
}
