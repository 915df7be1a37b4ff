package jetstream

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/lockstep-go/lockstep/event"
)

const (
	// headerUUID is the name that Watermill's own NATS adapter uses.
	headerUUID = "_watermill_message_uuid"
	// headerEscaped holds, query-escaped, the metadata that cannot be headers.
	headerEscaped = "Lockstep-Escaped"
	// headerEscapedUUID is the UUID, query-escaped, if it cannot be a header.
	headerEscapedUUID = "Lockstep-Escaped-UUID"
	// reservedPrefix begins the headers that mean something to the server.
	reservedPrefix = "Nats-"
)

// maxLife keeps the server's sum of now and expiry within an int64 of nanoseconds.
const maxLife = 100 * 365 * 24 * time.Hour

// errMalformed is the reason of a refusal that no repetition can help.
var errMalformed = errors.New("malformed message")

// headers returns a message's headers and its remaining life (0: no limit).
func headers(msg *message.Message) (nats.Header, time.Duration, error) {
	if msg == nil {
		return nil, 0, fmt.Errorf("%w: it is nil", errMalformed)
	}
	// One backing array for all one-element value lists saves an allocation each.
	values := make([]string, 0, len(msg.Metadata)+1)
	h := make(nats.Header, len(msg.Metadata)+2)
	var escaped url.Values
	var life time.Duration
	put := func(key, value string) {
		values = append(values, value)
		h[key] = values[len(values)-1 : len(values) : len(values)]
	}
	if plainValue(msg.UUID) {
		put(headerUUID, msg.UUID)
	} else {
		put(headerEscapedUUID, url.QueryEscape(msg.UUID))
	}
	for key, value := range msg.Metadata {
		if key == event.MetadataTTL {
			var err error
			if life, err = parseTTL(value); err != nil {
				return nil, 0, err
			}
			continue
		}
		if plainKey(key) && plainValue(value) {
			put(key, value)
			continue
		}
		if escaped == nil {
			escaped = url.Values{}
		}
		escaped.Set(key, value)
	}
	if escaped != nil {
		h[headerEscaped] = []string{escaped.Encode()}
	}
	return h, life, nil
}

func parseTTL(value string) (time.Duration, error) {
	ms, err := strconv.ParseInt(value, 10, 64)
	if err != nil || ms < 0 || ms > maxLife.Milliseconds() {
		return 0, fmt.Errorf("%w: %s is %.30q, not a number of milliseconds below a century", errMalformed, event.MetadataTTL, value)
	}
	return time.Duration(max(ms, 1)) * time.Millisecond, nil
}

// ttlHeader writes a remaining life in the server's unit, the whole second.
func ttlHeader(life time.Duration) string {
	seconds := (life + time.Second - 1) / time.Second
	return strconv.FormatInt(int64(seconds), 10) + "s"
}

// plainKey reports whether a metadata key can be a header's name without
// meaning something else.
func plainKey(key string) bool {
	switch key {
	case "", headerUUID, headerEscaped, headerEscapedUUID:
		return false
	}
	if isReserved(key) {
		return false
	}
	for i := range len(key) {
		if c := key[i]; c <= ' ' || c >= 0x7f || c == ':' {
			return false
		}
	}
	return true
}

func isReserved(key string) bool {
	return len(key) >= len(reservedPrefix) && strings.EqualFold(key[:len(reservedPrefix)], reservedPrefix)
}

// plainValue reports whether a header brings the value back byte for byte.
func plainValue(value string) bool {
	for i := range len(value) {
		if c := value[i]; c < ' ' || c == 0x7f {
			return false
		}
	}
	return value == "" || (value[0] != ' ' && value[len(value)-1] != ' ')
}

// decode makes a Watermill message of a delivery. A message that was not
// published by Watermill takes its Nats-Msg-Id or its place in the stream for
// UUID, so that it keeps it when delivered again.
func decode(m *nats.Msg) *message.Message {
	msg := message.NewMessage("", m.Data)
	known := false
	for key, values := range m.Header {
		if len(values) == 0 {
			continue
		}
		switch {
		case key == headerUUID:
			msg.UUID, known = values[0], true
		case key == headerEscapedUUID:
			uuid, err := url.QueryUnescape(values[0])
			msg.UUID, known = uuid, err == nil
		case key == headerEscaped:
			escaped, _ := url.ParseQuery(values[0]) // what it could read is all there is
			for k := range escaped {
				msg.Metadata[k] = escaped.Get(k)
			}
		case !isReserved(key):
			msg.Metadata[key] = values[0]
		}
	}
	if !known {
		msg.UUID = foreignUUID(m)
	}
	return msg
}

func foreignUUID(m *nats.Msg) string {
	if id := m.Header.Get(jetstream.MsgIDHeader); id != "" {
		return id
	}
	meta, err := m.Metadata()
	if err != nil {
		return ""
	}
	return meta.Stream + "-" + strconv.FormatUint(meta.Sequence.Stream, 10)
}
