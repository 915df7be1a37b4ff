package dialect

import (
	"strings"

	"github.com/lockstep-go/lockstep/event"
)

// The statements of a scan. Paging is by key: by offset, rows would be skipped
// while others are deleted. The first comparison gives $2 its type and reads all
// keys when there is nothing to start behind.
const (
	postgresScanKeys = `
SELECT t.{key}::text
FROM {table} t
WHERE {from} AND ({condition})
ORDER BY t.{key}
LIMIT $1
FOR NO KEY UPDATE OF t`

	postgresScanRows = `
SELECT t.{key}::text, to_json(t.{key})::text, {data}
FROM {table} t
WHERE {from} AND ({condition})
ORDER BY t.{key}
LIMIT $1`

	postgresScanVersions = `
SELECT t.{key}::text, to_json(t.{key})::text, t.cqrs_revision
FROM {table} t
WHERE {from} AND ({condition})
ORDER BY t.{key}
LIMIT $1`

	postgresScanCount = `
SELECT count(*)
FROM {table} t
WHERE $1::bigint IS NULL AND $2::text IS NULL AND ({condition})`
)

// postgresSync inserts a SYNC of the rows that the transaction has locked. It
// raises no revision. Its parameters are the keys, the event ids, the topic and
// the metadata without the event id.
const postgresSync = postgresMarked + `, lockstep_changed AS (
    SELECT {returning}, t.cqrs_revision, t.cqrs_updated, m.event_id, m.ord
    FROM lockstep_marked m JOIN {table} t ON t.{key} = m.k
)
INSERT INTO outbox (topic, key, payload, metadata)
SELECT $3, c.f0::text, convert_to({envelope}, 'UTF8'), $4::jsonb || jsonb_build_object({event_id_header}, c.event_id)
FROM lockstep_changed c
ORDER BY c.ord
RETURNING metadata ->> {event_id_header}`

func postgresScan(s Scan) ScanSQL {
	n := Postgres
	from := "$2::text IS NULL"
	if s.From {
		from = "t." + n.QuoteColumn(s.Key.Name) + " > $2::" + keyCast(s.Key)
	}
	build := func(template string) string {
		return strings.NewReplacer(
			"{table}", n.Quote(s.Table), "{key}", n.QuoteColumn(s.Key.Name), "{from}", from,
			"{condition}", s.Condition, "{data}", postgresData(s.EntityTable),
		).Replace(template)
	}
	return ScanSQL{
		Keys: build(postgresScanKeys), Rows: build(postgresScanRows),
		Versions: build(postgresScanVersions), Count: build(postgresScanCount),
	}
}

// postgresData is the expression for the data of a row t, as an event has it.
func postgresData(e EntityTable) string {
	var members []string
	for _, c := range e.Fields {
		name := Postgres.QuoteColumn(c.Name)
		members = append(members, postgresValue("t."+name, c)+" AS "+name)
	}
	members = append(members, "t.cqrs_revision AS "+event.FieldRevision,
		postgresTimestamptz("t.cqrs_updated")+" AS "+event.FieldUpdated)
	return "(SELECT row_to_json(r.*)::text FROM (SELECT " + strings.Join(members, ", ") + ") r)"
}
