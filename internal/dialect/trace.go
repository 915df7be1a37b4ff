package dialect

import "strings"

// TraceSQL is the statements that tell where one key stands. All take the key's text
// as parameter 1, except Row. Times are milliseconds since 1970, or the column as text.
type TraceSQL struct {
	// Pending lists the key's outbox rows: id, topic, payload, time of creation,
	// attempts (0 if it is not failing), last error and time of the next try, or null.
	Pending string
	// Dead lists the key's rows of outbox_dead: id, topic, payload, time of creation,
	// attempts, error, time of death.
	Dead string
	// Deleted returns revision and time of the entity's ($2) tombstone of the key.
	Deleted string
	// Buried returns revision, time of the change and time of the deletion of the
	// replica table's ($2) tombstone of the key.
	Buried string
	// Seen returns revision, time of the change and time of the deletion, or null, of
	// the newest event that a handler of an entity ($2) has seen in a queue ($3).
	Seen string
}

// traceLimit bounds what is listed.
const traceLimit = " LIMIT 1000"

// Trace returns the statements, to be run through [Name.Over].
func (n Name) Trace() TraceSQL {
	key := n.QuoteColumn("key")
	keyed := "key = {1}"
	return n.traced(TraceSQL{
		Pending: "SELECT o.id, o.topic, o.payload, {ms o.created_at}, COALESCE(f.attempts, 0), COALESCE(f.last_error, ''), {ms f.retry_at} " +
			"FROM outbox o LEFT JOIN outbox_failures f ON f.outbox_id = o.id WHERE o.key = {1} ORDER BY o.id" + traceLimit,
		Dead: "SELECT d.id, d.topic, d.payload, {ms d.created_at}, d.attempts, d.error, {ms d.died_at} " +
			"FROM outbox_dead d WHERE d.key = {1} ORDER BY d.id" + traceLimit,
		Deleted: "SELECT t.revision, {text t.deleted_at} FROM outbox_tombstones t WHERE t." + keyed + " AND t.entity = {2}",
		Buried:  "SELECT t.revision, {text t.updated}, {text t.deleted_at} FROM replica_tombstones t WHERE t." + keyed + " AND t.replica = {2}",
		Seen: "SELECT t.revision, {text t.updated}, {text t.deleted_at} FROM replica_inbox t WHERE t." + keyed +
			" AND t.entity = {2} AND t.queue = {3}",
	}, key)
}

// traced writes a dialect's own for what stands in braces.
func (n Name) traced(t TraceSQL, key string) TraceSQL {
	for _, s := range []*string{&t.Pending, &t.Dead, &t.Deleted, &t.Buried, &t.Seen} {
		*s = n.fill(strings.ReplaceAll(*s, ".key ", "."+key+" "))
	}
	return t
}

// fill replaces {1} by a parameter, {ms x} by a time's milliseconds and {text x} by
// its text.
func (n Name) fill(s string) string {
	parameter, ms, text := "$", "(extract(epoch FROM {}) * 1000)::bigint", "({})::text"
	switch n {
	case MySQL:
		parameter, ms, text = "?", "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', {}) DIV 1000", "CONCAT({}, '+00:00')"
	case SQLite:
		parameter, ms, text = "?", "CAST(round((julianday(substr({}, 1, 23)) - 2440587.5) * 86400000) AS INTEGER)", "{}"
	}
	var b strings.Builder
	for {
		head, rest, found := strings.Cut(s, "{")
		b.WriteString(head)
		if !found {
			return b.String()
		}
		what, tail, _ := strings.Cut(rest, "}")
		switch kind, of, _ := strings.Cut(what, " "); kind {
		case "ms":
			b.WriteString(strings.ReplaceAll(ms, "{}", of))
		case "text":
			b.WriteString(strings.ReplaceAll(text, "{}", of))
		default:
			b.WriteString(parameter + what)
		}
		s = tail
	}
}

// TraceRow returns the statement that reads revision and time of the last change of
// the row with a key, whose columns' texts are the parameters.
func (n Name) TraceRow(table string, keys []string) string {
	conditions := make([]string, len(keys))
	for i, key := range keys {
		conditions[i] = "t." + n.QuoteColumn(key) + " = {" + itoa(i+1) + "}"
	}
	return n.fill("SELECT t.cqrs_revision, {text t.cqrs_updated} FROM " + n.Quote(table) + " t WHERE " + strings.Join(conditions, " AND "))
}
