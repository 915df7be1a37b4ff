package rabbitmq

import (
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"
)

// ErrClosed is what every call on a closed [Broker] returns, and what a message gets that was not
// confirmed when the broker was closed.
var ErrClosed = errors.New("rabbitmq: broker is closed")

// RefusedError says that RabbitMQ did not take a message because of the message itself. Any other error
// of publishing is an outage and says nothing about the message.
type RefusedError struct {
	// Topic and UUID are the message's.
	Topic, UUID string
	// Reason is RabbitMQ's, or ours when the message cannot be written in AMQP.
	Reason string

	permanent, unroutable bool
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("rabbitmq: message %s on topic %q: %s", e.UUID, e.Topic, e.Reason)
}

// Permanent reports whether sending the same message again is useless: it is too large or malformed.
func (e *RefusedError) Permanent() bool { return e.permanent }

// Unroutable reports whether RabbitMQ accepted the message and dropped it, because no queue is bound to
// its topic, nor was when this Broker sent others on it. Such an error is not permanent.
func (e *RefusedError) Unroutable() bool { return e.unroutable }

// refusal returns what d gets when it made RabbitMQ close the channel, and nil when the reason lies
// elsewhere (a missing exchange or permission, a lost connection): it is then an outage.
func refusal(d *delivery, cause error) *RefusedError {
	var e *amqp.Error
	if errors.As(cause, &e) && e.Server && (e.Code == amqp.PreconditionFailed || e.Code == amqp.ContentTooLarge) {
		return d.refused(e.Reason)
	}
	return nil
}

// isException reports whether err is the server's own complaint.
func isException(err error) bool {
	var e *amqp.Error
	return errors.As(err, &e) && e.Server
}

// configError is a fault of the URL or the Config; it is ErrURL.
type configError struct{ error }

func (e *configError) Unwrap() []error { return []error{ErrURL, e.error} }
