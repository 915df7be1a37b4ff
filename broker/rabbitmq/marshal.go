package rabbitmq

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/lockstep-go/lockstep/event"
)

// Marshaler turns Watermill messages into AMQP messages with django-cqrs's properties, and back. It
// can serve as the Marshaler of watermill-amqp's own configuration.
type Marshaler struct{}

var _ wamqp.Marshaler = Marshaler{}

// Headers with which RabbitMQ records what was dead-lettered. The first is an array of tables: readable
// as JSON on a received message, it would be an error if it were sent back as text.
const (
	deathHeader       = "x-death"
	firstDeathHeaders = "x-first-death-"
	firstDeathQueue   = firstDeathHeaders + "queue"
)

// maxExpiration is the longest life RabbitMQ accepts, in milliseconds: 49.7 days.
const maxExpiration = 1<<32 - 1

// Marshal writes the UUID as the message id, the metadata as headers and [event.MetadataTTL] as the
// expiration. An error means that the message cannot be written in AMQP at all.
func (Marshaler) Marshal(msg *message.Message) (amqp.Publishing, error) {
	p := amqp.Publishing{
		ContentType:  "text/plain",
		DeliveryMode: amqp.Persistent,
		MessageId:    msg.UUID,
		Timestamp:    time.Now(),
		Body:         msg.Payload,
	}
	if len(msg.UUID) > maxShort {
		return p, fmt.Errorf("the UUID has %d bytes, at most %d are possible", len(msg.UUID), maxShort)
	}
	for key, value := range msg.Metadata {
		switch {
		case key == event.MetadataTTL:
			ms, err := strconv.ParseUint(value, 10, 64)
			if err != nil || ms > maxExpiration {
				return p, fmt.Errorf("metadata %s is %.40q, not milliseconds from 0 to %d", key, value, maxExpiration)
			}
			p.Expiration = strconv.FormatUint(ms, 10)
		case key == deathHeader, key == event.MetadataTopic:
		case len(key) > maxShort:
			return p, fmt.Errorf("metadata key %.40q… has %d bytes, at most %d are possible", key, len(key), maxShort)
		default:
			if p.Headers == nil {
				p.Headers = make(amqp.Table, len(msg.Metadata))
			}
			p.Headers[key] = value
		}
	}
	return p, nil
}

// Unmarshal reads any AMQP message: header values of every type become text, and a message that has
// no id gets a fresh UUID. What RabbitMQ noted about the way through our own delay queues is left out. It
// never returns an error.
func (Marshaler) Unmarshal(d amqp.Delivery) (*message.Message, error) {
	id := d.MessageId
	if id == "" {
		id, _ = d.Headers[wamqp.DefaultMessageUUIDHeaderKey].(string)
	}
	if id == "" {
		id = uuid.NewString()
	}
	msg := message.NewMessage(id, d.Body)
	queue, _ := d.Headers[firstDeathQueue].(string)
	delayed := strings.HasPrefix(queue, delayPrefix)
	for key, value := range d.Headers {
		switch {
		case key == wamqp.DefaultMessageUUIDHeaderKey:
		case delayed && (key == deathHeader || strings.HasPrefix(key, firstDeathHeaders)):
		default:
			msg.Metadata[key] = headerText(value)
		}
	}
	return msg, nil
}

// headerText writes a header value of any type that AMQP has.
func headerText(value any) string {
	switch v := value.(type) {
	case nil:
		return ""
	case string:
		return v
	case []byte:
		return string(v)
	case time.Time:
		return v.UTC().Format(time.RFC3339)
	case amqp.Decimal:
		return decimalText(v)
	case amqp.Table, []any:
		if text, err := json.Marshal(v); err == nil {
			return string(text)
		}
	}
	return fmt.Sprint(value)
}

func decimalText(d amqp.Decimal) string {
	digits := strconv.FormatInt(int64(d.Value), 10)
	sign := ""
	if digits[0] == '-' {
		sign, digits = "-", digits[1:]
	}
	if d.Scale == 0 {
		return sign + digits
	}
	scale := int(d.Scale)
	for len(digits) <= scale {
		digits = "0" + digits
	}
	return sign + digits[:len(digits)-scale] + "." + digits[len(digits)-scale:]
}
