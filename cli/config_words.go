package cli

import "regexp"

// inFile is an error of the library about what the file declares, in the words of the
// file: the library speaks to those who fill in a Config.
type inFile struct{ err error }

// Unwrap returns the library's error.
func (e inFile) Unwrap() error { return e.err }

// Error says keys and flags where the library names fields. What stands in quotes is
// the user's own.
func (e inFile) Error() string {
	text := tableOfConsumer.ReplaceAllString(e.err.Error(), "replicas: $1: ")
	text = entityOfConfig.ReplaceAllString(text, "entities: ")
	return fieldOfConfig.ReplaceAllStringFunc(text, func(field string) string {
		if key, ok := keyOfField[field]; ok {
			return key
		}
		return field
	})
}

var (
	tableOfConsumer = regexp.MustCompile(`(?m)^consumer: Table "([^"]+)": `)
	entityOfConfig  = regexp.MustCompile(`(?m)^outbox: Config\.Entities\[\d+\]: `)
	fieldOfConfig   = regexp.MustCompile(`"[^"]*"|(?:outbox: )?\bConfig\.[A-Za-z]+|\bno Table\b|\b[A-Z][A-Za-z]+\b`)
)

// keyOfField is the file's key, and the flag, for what an error calls a field. Those
// of consume have a flag that stands over the file.
var keyOfField = map[string]string{
	"outbox: Config.MaxPayload": "max_payload", "Config.MaxPayload": "max_payload",
	"Config.TombstoneRetention": "tombstone_retention of consume (--" + flagTombstoneRetention + ")",
	"DeadLetterTTL":             "dead_letter_ttl (--" + flagDeadLetterTTL + ")",
	"Config.Ignore":             "ignore of consume (--" + flagIgnore + ")",
	"Config.Entities":           "entities of consume (--" + flagEntities + ")",
	"MaxRetries":                "max_retries", "RetryDelay": "retry_delay", "Columns": "columns",
	"no Table": "table is missing", "Table": "table", "Key": "key", "Keys": "key", "Fields": "fields", "Tracked": "tracked",
	"Where": "where", "Leave": "leave", "Decimals": "decimals", "NonFinite": "non_finite", "TTL": "ttl",
}
