package sql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/event"
)

const (
	// maxName bounds the names of queues and topics in bytes: an index holds them.
	maxName = 512
	// maxLife keeps sums of times in range.
	maxLife = 100 * 365 * 24 * time.Hour
)

// parcel is a message as it is stored.
type parcel struct {
	topic, uuid string
	payload     []byte
	metadata    string // JSON, or "" for none
	delay, life int64  // in milliseconds; 0: none
	settled     bool   // stored, or wanted by no queue
}

func (p *parcel) size() int { return len(p.payload) + len(p.metadata) + len(p.uuid) + len(p.topic) }

// Publish stores the messages for every queue that is bound to the topic and returns when they are
// on the server's disk; otherwise it returns the errors of those that are not, joined. It blocks for
// twice ConfirmTimeout at most.
func (b *Broker) Publish(topic string, msgs ...*message.Message) error {
	ctx := context.Background()
	errs := b.PublishAsync(ctx, slices.Repeat([]string{topic}, len(msgs)), msgs)(ctx)
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return event.Unwanted(topic, err) })...)
}

// PublishAsync hands the messages over in their order, each on the topic of the same index. Calls
// that follow each other quickly are stored by one statement. The returned function waits until all
// are stored, refused or given up, for ConfirmTimeout at most, and must be called exactly once: after
// a failure nothing more is sent until it has been. PublishAsync itself blocks while Config.Window
// messages wait, for ConfirmTimeout at most.
func (b *Broker) PublishAsync(ctx context.Context, topics []string, msgs []*message.Message) func(context.Context) []error {
	if len(topics) != len(msgs) {
		err := fmt.Errorf("sql: publish: %d topics for %d messages", len(topics), len(msgs))
		return func(context.Context) []error { return slices.Repeat([]error{err}, max(1, len(msgs))) }
	}
	return b.publishAfter(ctx, 0, topics, msgs)
}

// PublishAfter stores the message for every queue that is bound to the topic now; they hand it on when
// the delay is over, by the database's clock, at its place among the messages stored at the same time.
// event.MetadataTTL counts from the end of the delay. It blocks for twice ConfirmTimeout at most.
func (b *Broker) PublishAfter(ctx context.Context, delay time.Duration, topic string, msg *message.Message) error {
	return errors.Join(b.publishAfter(ctx, max(delay, 0), []string{topic}, []*message.Message{msg})(ctx)...)
}

func (b *Broker) publishAfter(ctx context.Context, delay time.Duration, topics []string, msgs []*message.Message) func(context.Context) []error {
	c := newCall(len(msgs))
	for i, msg := range msgs {
		p, err := b.accept(topics[i], msg, delay)
		if err != nil {
			c.errs[i] = err
			continue
		}
		c.parcels, c.at = append(c.parcels, p), append(c.at, i)
	}
	return b.out.send(ctx, c)
}

// accept reads a message and refuses what can never be stored.
func (b *Broker) accept(topic string, msg *message.Message, delay time.Duration) (parcel, error) {
	if msg == nil {
		return parcel{}, &RefusedError{Topic: topic, Reason: fmt.Errorf("%w: it is nil", errMalformed)}
	}
	refuse := func(format string, args ...any) (parcel, error) {
		reason := fmt.Errorf("%w: "+format, append([]any{errMalformed}, args...)...)
		return parcel{}, &RefusedError{Topic: topic, UUID: msg.UUID, Reason: reason}
	}
	p := parcel{topic: topic, uuid: msg.UUID, payload: msg.Payload}
	if !storable(topic) || topic == "" {
		return refuse("the topic is %.80q, which is empty or no text", topic)
	}
	if !storable(msg.UUID) {
		return refuse("the UUID is %.80q, which is no text", msg.UUID)
	}
	if delay > maxLife {
		return refuse("a delay of %v is longer than a century", delay)
	}
	p.delay = (delay + time.Millisecond - 1).Milliseconds()
	rest := msg.Metadata
	if ttl, ok := msg.Metadata[event.MetadataTTL]; ok {
		ms, err := strconv.ParseInt(ttl, 10, 64)
		if err != nil || ms < 0 || ms > maxLife.Milliseconds() {
			return refuse("%s is %.30q, not a number of milliseconds below a century", event.MetadataTTL, ttl)
		}
		p.life = max(ms, 1)
	}
	_, hasTTL := rest[event.MetadataTTL]
	_, hasTopic := rest[event.MetadataTopic]
	if hasTTL || hasTopic {
		rest = make(message.Metadata, len(msg.Metadata))
		for key, value := range msg.Metadata {
			if key != event.MetadataTTL && key != event.MetadataTopic {
				rest[key] = value
			}
		}
	}
	if len(rest) > 0 {
		text, err := json.Marshal(rest)
		if err != nil {
			return refuse("its metadata: %v", err)
		}
		p.metadata = string(text)
	}
	if p.size() > b.cfg.MaxSize {
		return refuse("it has %d bytes, more than max_size, %d", p.size(), b.cfg.MaxSize)
	}
	return p, nil
}

// storable reports whether PostgreSQL takes the text.
func storable(text string) bool { return utf8.ValidString(text) && strings.IndexByte(text, 0) < 0 }

func checkName(what, name string) error {
	switch {
	case name == "":
		return fmt.Errorf("sql: bind: the %s's name is empty", what)
	case len(name) > maxName:
		return fmt.Errorf("sql: bind: the %s's name, %.80q…, has %d bytes, at most %d are possible", what, name, len(name), maxName)
	case !storable(name):
		return fmt.Errorf("sql: bind: the %s's name, %.80q, is no text", what, name)
	}
	return nil
}
