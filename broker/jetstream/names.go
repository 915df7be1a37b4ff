package jetstream

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// maxTopic bounds a topic's length in bytes. Written as %XX it still fits the
// 4096 bytes that a server allows for a protocol line; a longer line would end
// the connection.
const maxTopic = 1024

// Consumers that are no queues. No queue's durable name is like them: in those
// "=" is followed by upper-case hex digits, or by h near the end.
const (
	keeper     = "=delays" // keeps schedules in the stream
	lockPrefix = "=lock-"  // guards the bindings of the queue whose name follows
)

// subjects knows the names of one stream.
type subjects struct {
	topics string // what precedes a topic: "cqrs."
	delays string // what precedes a schedule's id: "cqrs-delay."
}

func subjectsOf(stream string) subjects {
	return subjects{topics: stream + ".", delays: stream + "-delay."}
}

// nothing is a subject that no message is published on.
func (s subjects) nothing() string { return s.delays + "none" }

// anchor is the subject of the message at the stream's beginning.
func (s subjects) anchor() string { return s.delays + "anchor" }

// topic returns the subject of a topic, which is the topic itself behind the
// stream's prefix unless NATS reads something else into it.
func (s subjects) topic(topic string) (string, error) {
	switch {
	case topic == "":
		return "", fmt.Errorf("%w: the topic is empty", errMalformed)
	case len(topic) > maxTopic:
		return "", fmt.Errorf("%w: the topic is longer than %d bytes", errMalformed, maxTopic)
	case plainTopic(topic):
		return s.topics + topic, nil
	}
	tokens := strings.Split(topic, ".")
	for i, token := range tokens {
		tokens[i] = escapeToken(token)
	}
	return s.topics + strings.Join(tokens, "."), nil
}

// plainTopic reports whether a topic needs no escaping.
func plainTopic(topic string) bool {
	last := byte('.')
	for i := range len(topic) {
		c := topic[i]
		if specialInSubject(c) || (c == '.' && last == '.') {
			return false
		}
		last = c
	}
	return last != '.'
}

func specialInSubject(c byte) bool {
	return c <= ' ' || c == 0x7f || c == '*' || c == '>' || c == '%'
}

// escapeToken writes one token of a subject. "%_" stands for the empty token,
// which a subject cannot have.
func escapeToken(token string) string {
	if token == "" {
		return "%_"
	}
	var b strings.Builder
	for i := range len(token) {
		if c := token[i]; specialInSubject(c) {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// durable returns the name of a queue's consumer. It is also a folder's name
// on the server, hence the narrow choice of characters. What would be too long
// is cut and told apart by a hash.
func durable(queue string) string {
	const longest = 200
	var b strings.Builder
	for i := range len(queue) {
		if c := queue[i]; plainInName(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "=%02X", c)
		}
	}
	if name := b.String(); len(name) <= longest {
		return name
	}
	sum := sha256.Sum256([]byte(queue))
	return b.String()[:longest-40] + "=h" + hex.EncodeToString(sum[:16])
}

func plainInName(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		return true
	}
	return false
}
