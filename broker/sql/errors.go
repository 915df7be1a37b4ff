package sql

import (
	"context"
	"errors"
	"fmt"

	"github.com/lib/pq"
)

// Errors that say nothing about a message: it may have been stored or not, and sending it again
// later is right.
var (
	// ErrClosed reports a call on a closed Broker.
	ErrClosed = errors.New("sql: broker is closed")
	// ErrUnconfirmed reports that a message was not stored within ConfirmTimeout.
	ErrUnconfirmed = errors.New("sql: no confirmation in time")
	// ErrInDoubt reports that a message was not sent, because an earlier one failed and its wait
	// function has not returned yet: it must not be overtaken.
	ErrInDoubt = errors.New("sql: an earlier message is in doubt")
	// ErrTables reports that the broker's tables are missing and could not be made. The error's text
	// has the SQL that makes them.
	ErrTables = errors.New("sql: the broker's tables are missing")
)

// ErrURL reports a URL, or parameters in it, that Open cannot read, and faults of the Config. It is
// found with [errors.Is].
var ErrURL = errors.New("the URL or the configuration is wrong")

// configError is a fault of the URL or the Config; it is ErrURL.
type configError struct{ error }

func (e *configError) Unwrap() []error { return []error{ErrURL, e.error} }

var (
	errUnbound   = errors.New("no queue is bound to the topic")
	errMalformed = errors.New("malformed message")
)

// RefusedError reports that the broker will not take this very message.
type RefusedError struct {
	Topic  string // topic the message was sent to
	UUID   string // the message's Watermill UUID
	Reason error  // what was wrong

	unroutable bool
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("sql: message %.40q to %.80q refused: %v", e.UUID, e.Topic, e.Reason)
}

// Unwrap returns the reason.
func (e *RefusedError) Unwrap() error { return e.Reason }

// Permanent reports whether sending the same message again is useless, because it is too large or
// malformed.
func (e *RefusedError) Permanent() bool { return !e.unroutable }

// Unroutable reports whether the reason is that no queue is bound to the topic.
func (e *RefusedError) Unroutable() bool { return e.unroutable }

// NoQueueError reports that there is no such queue.
type NoQueueError struct{ Queue string }

func (e *NoQueueError) Error() string { return fmt.Sprintf("sql: there is no queue %q", e.Queue) }

// NoQueue is true: tools find errors of all adapters by it.
func (e *NoQueueError) NoQueue() bool { return true }

// SQLSTATE codes and classes.
const (
	insufficientPrivilege = "42501"
	undefinedTable        = "42P01"
	undefinedParameter    = "42704"
	uniqueViolation       = "23505"

	classData       = "22"
	classConstraint = "23"
	classLimit      = "54" // of the program: a value that is too large
)

func hasCode(err error, code string) bool {
	var e *pq.Error
	return errors.As(err, &e) && string(e.Code) == code
}

// aboutTheData reports whether PostgreSQL says that the values are to blame. An offset that is there
// already is not the message's: a sequence stayed behind when the tables were copied.
func aboutTheData(err error) bool {
	var e *pq.Error
	if !errors.As(err, &e) || string(e.Code) == uniqueViolation {
		return false
	}
	switch string(e.Code.Class()) {
	case classData, classConstraint, classLimit:
		return true
	}
	return false
}

// because adds why ctx has ended to an error of what was done with it: lib/pq says that a statement was
// canceled or that the connection is bad, and database/sql that the transaction is over.
func because(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	for _, why := range []error{context.Cause(ctx), ctx.Err()} {
		if !errors.Is(err, why) {
			err = fmt.Errorf("%w: %w", why, err)
		}
	}
	return err
}

// outage wraps an error of the database with what was done and, where there is one, a remedy.
func outage(what string, err error) error {
	switch {
	case hasCode(err, undefinedTable):
		return fmt.Errorf("sql: %s: %w; start the program again, or run the SQL that it then shows", what, err)
	case hasCode(err, insufficientPrivilege):
		return fmt.Errorf("sql: %s: %w; the role needs SELECT, INSERT, UPDATE and DELETE on the broker's tables and USAGE on their sequences", what, err)
	case errors.Is(err, pq.ErrSSLNotSupported):
		return fmt.Errorf("sql: %s: %w: add ?sslmode=disable to the URL if that is right", what, err)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("sql: %s: no answer in time: %w", what, err)
	}
	return fmt.Errorf("sql: %s: %w", what, err)
}
