package jetstream

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Errors that say nothing about a message: it may have been stored or not, and
// sending it again later is right.
var (
	// ErrClosed reports a call on a closed Broker.
	ErrClosed = errors.New("jetstream: broker is closed")
	// ErrNotConnected reports that there is no connection to the server now, or
	// that it was lost before the confirmation came.
	ErrNotConnected = errors.New("jetstream: not connected")
	// ErrUnconfirmed reports that no confirmation came within ConfirmTimeout.
	ErrUnconfirmed = errors.New("jetstream: no confirmation in time")
	// ErrInDoubt reports that a message was not sent, because an earlier one
	// is in doubt and its wait function has not returned yet.
	ErrInDoubt = errors.New("jetstream: an earlier message is in doubt")
	// ErrUnavailable reports that the server answered, but cannot store
	// anything now: no leader, no space, too busy.
	ErrUnavailable = errors.New("jetstream: stream is not available")
)

// errUnbound is the reason of a refusal for want of a queue.
var errUnbound = errors.New("no queue is bound to the topic")

// RefusedError reports that the broker will not take this very message.
type RefusedError struct {
	Topic  string // topic the message was sent to
	UUID   string // the message's Watermill UUID
	Reason error  // what was wrong

	permanent  bool
	unroutable bool
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("jetstream: message %s to %q refused: %v", e.UUID, e.Topic, e.Reason)
}

// Unwrap returns the reason.
func (e *RefusedError) Unwrap() error { return e.Reason }

// Permanent reports whether sending the same message again is useless, because
// it is too large or malformed.
func (e *RefusedError) Permanent() bool { return e.permanent }

// Unroutable reports whether the reason is that no queue is bound to the topic.
func (e *RefusedError) Unroutable() bool { return e.unroutable }

// outcome turns what the client library or the server said about one message
// into one of this package's errors.
func outcome(topic, uuid string, err error) error {
	refused := &RefusedError{Topic: topic, UUID: uuid, Reason: err}
	var api *jetstream.APIError
	switch {
	case errors.As(err, &api) && api.Code != 400:
		return fmt.Errorf("%w: %s", ErrUnavailable, api.Description)
	case errors.As(err, &api):
		refused.permanent = api.ErrorCode == codeMessageTooLarge || api.ErrorCode == codeHeaderTooLarge
		return refused
	case errors.Is(err, errUnbound):
		refused.unroutable = true
		return refused
	case errors.Is(err, errMalformed), errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject):
		refused.permanent = true
		return refused
	case errors.Is(err, nats.ErrNoResponders):
		return fmt.Errorf("%w: no server answers for it", ErrUnavailable)
	case errors.Is(err, ErrClosed), errors.Is(err, ErrNotConnected), errors.Is(err, ErrUnconfirmed), errors.Is(err, ErrInDoubt):
		return err
	}
	return fmt.Errorf("%w: %w", ErrNotConnected, err)
}

// Codes of nats-server's errors.json that condemn a message for good.
const (
	codeMessageTooLarge jetstream.ErrorCode = 10054
	codeHeaderTooLarge  jetstream.ErrorCode = 10097
)

// ErrURL reports a URL, or parameters in it, that Open cannot read, and faults
// of the Config. It is found with [errors.Is]; its text says no more than that.
var ErrURL = errors.New("jetstream: the URL or the configuration is wrong")

// configError is a fault of the URL or the Config; it is ErrURL.
type configError struct{ error }

func (e *configError) Unwrap() []error { return []error{ErrURL, e.error} }
