package consumer

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// ErrTransactionText reports a handler's statement that would begin or end a
// transaction. The note that the event was seen would be committed with it, and
// an event that fails afterwards would be lost.
var ErrTransactionText = errors.New("consumer: a handler's transaction is begun and ended by the consumer; return an error to undo it, and use savepoints for less")

// refuse returns an error for a statement that begins or ends a transaction. It
// looks at a text's first words: it keeps from mistakes, not from malice.
func refuse(query string) error {
	word, rest := firstWord(query)
	switch word {
	case "BEGIN", "START", "COMMIT", "END", "ABORT":
	case "ROLLBACK":
		for next, more := firstWord(rest); next != ""; next, more = firstWord(more) {
			if next == "TO" { // a savepoint
				return nil
			}
		}
	case "PREPARE":
		if next, _ := firstWord(rest); next != "TRANSACTION" {
			return nil
		}
	default:
		return nil
	}
	return fmt.Errorf("%w: %s", ErrTransactionText, shorten(query, maxShown))
}

// refused is a context that has ended for a reason of its own. A call with it is not
// sent and returns that as its error, which is how a *sql.Row comes to one of ours.
type refused struct {
	context.Context //nolint:containedctx // it is one
	err             error
}

func (r refused) Err() error { return r.err }

func (r refused) Done() <-chan struct{} {
	ended := make(chan struct{})
	close(ended)
	return ended
}

// firstWord returns the first word of a statement in capital letters, without
// comments before it, and what follows.
func firstWord(query string) (word, rest string) {
	for {
		query = strings.TrimLeft(query, " \t\r\n;")
		switch {
		case strings.HasPrefix(query, "--"):
			_, query, _ = strings.Cut(query, "\n")
		case strings.HasPrefix(query, "/*"):
			_, query, _ = strings.Cut(query, "*/")
		default:
			end := 0
			for end < len(query) && isLetter(query[end]) {
				end++
			}
			return strings.ToUpper(query[:end]), query[end:]
		}
	}
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' }
