package consumer

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Errors of [Consumer.Run] and of the calls before it.
var (
	// ErrRunning reports a call that is only allowed before Run, or a second Run.
	ErrRunning = errors.New("consumer: already running")
	// ErrClosed reports that the broker ended the subscription while Run's
	// context had not ended.
	ErrClosed = errors.New("consumer: the broker ended the subscription")
	// ErrDrain reports that messages in hand were not settled within
	// [Config.DrainTimeout]. They went back to the queue.
	ErrDrain = errors.New("consumer: not drained in time")
)

// DataError says that a message does not fit its replica: a field is missing, a
// value is refused by a column, a constraint is violated. Other messages are not
// affected by it.
type DataError struct {
	// Entity is the CQRS ID and Key the key's text, shortened.
	Entity, Key string
	// Column is the replica's column that refused Value, both empty when no
	// single column is to blame. Value is the JSON value, shortened.
	Column, Value string
	Err           error
}

func (e *DataError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "consumer: %s/%s: ", e.Entity, e.Key)
	if e.Column != "" {
		fmt.Fprintf(&b, "column %s: value %s: ", e.Column, e.Value)
	}
	b.WriteString(shorten(e.Err.Error(), 300))
	return b.String()
}

// Unwrap returns the database's error, or what was found before asking it.
func (e *DataError) Unwrap() error { return e.Err }

// isData reports whether err is about a message's values, found by us or by the
// database.
func isData(err error) bool {
	var data *DataError
	return errors.As(err, &data) || dialect.Classify(err) == dialect.Data
}

// maxShown is how much of a value stands in an error.
const maxShown = 60

// fault returns the error of a message that does not fit. column may be nil.
func (in *incoming) fault(column *dialect.Column, value []byte, err error) error {
	e := &DataError{Entity: in.ev.CQRSID, Key: in.shownKey(), Err: err}
	if column != nil {
		e.Column, e.Value = column.Name, shorten(string(value), maxShown)
	}
	return e
}

// shorten cuts a text at a rune's start to at most n bytes, dots included.
func shorten(s string, n int) string {
	const dots = "…"
	if len(s) <= n {
		return s
	}
	n -= len(dots)
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + dots
}
