package memory

import (
	"errors"
	"fmt"
)

// ErrClosed reports a call on a closed Broker.
var ErrClosed = errors.New("memory: broker is closed")

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
	return fmt.Sprintf("memory: message %s to %q refused: %v", e.UUID, e.Topic, e.Reason)
}

// Unwrap returns the reason.
func (e *RefusedError) Unwrap() error { return e.Reason }

// Permanent reports whether sending the same message again is useless.
func (e *RefusedError) Permanent() bool { return !e.unroutable }

// Unroutable reports whether the reason is that no queue is bound to the topic.
func (e *RefusedError) Unroutable() bool { return e.unroutable }
