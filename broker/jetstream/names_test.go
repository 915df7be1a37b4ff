package jetstream

import (
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
)

func TestSubjects(t *testing.T) {
	t.Parallel()
	tests := []struct{ topic, want string }{
		{"account", "cqrs.account"},
		{"cqrs.billing.account", "cqrs.cqrs.billing.account"},
		{"größe", "cqrs.größe"},
		{"a b", "cqrs.a%20b"},
		{"a.*.>", "cqrs.a.%2A.%3E"},
		{"100%", "cqrs.100%25"},
		{"a..b.", "cqrs.a.%_.b.%_"},
		{".", "cqrs.%_.%_"},
		{"a\r\nb", "cqrs.a%0D%0Ab"},
	}
	for _, test := range tests {
		have, err := subjectsOf("cqrs").topic(test.topic)
		if err != nil || have != test.want {
			t.Errorf("subject of %q: have %q, %v, want %q", test.topic, have, err, test.want)
		}
	}
	for _, topic := range []string{"", strings.Repeat("x", maxTopic+1)} {
		if have, err := subjectsOf("cqrs").topic(topic); err == nil {
			t.Errorf("subject of %.10q: have %.20q, want an error", topic, have)
		}
	}
}

// FuzzNames: different names stay different, and all are names for NATS.
func FuzzNames(f *testing.F) {
	f.Add("a.b", "a=2Eb")
	f.Add("a..b", "a.%_.b")
	f.Add("=delays", "=lock-q")
	f.Add(strings.Repeat("x", 300), strings.Repeat("x", 301))
	f.Fuzz(func(t *testing.T, a, b string) {
		if name := durable(a); len(name) > 200 || strings.ContainsAny(name, " \t\r\n.*>\\/") {
			t.Errorf("durable(%q) = %q", a, name)
		}
		if strings.HasPrefix(durable(a), lockPrefix) || durable(a) == keeper {
			t.Errorf("durable(%q) = %q is a name of ours", a, durable(a))
		}
		if a != b && durable(a) == durable(b) {
			t.Errorf("queues %q and %q are both %q", a, b, durable(a))
		}
		s := subjectsOf("cqrs")
		one, err1 := s.topic(a)
		two, err2 := s.topic(b)
		if err1 != nil || err2 != nil {
			return
		}
		if a != b && one == two {
			t.Errorf("topics %q and %q are both %q", a, b, one)
		}
		for _, token := range strings.Split(one, ".") {
			if token == "" || strings.ContainsAny(token, " \t\r\n*>") {
				t.Errorf("topic %q: subject %q", a, one)
			}
		}
	})
}

// FuzzCodec: any UUID and metadata arrive as they were sent, and never as a
// header that means something to the server.
func FuzzCodec(f *testing.F) {
	f.Add("id", "key", "value")
	f.Add("", "Nats-Rollup", "all")
	f.Add("\n", headerUUID, " ")
	f.Add("x", headerEscaped, "a=b")
	f.Add("\xff", "", "\x00\xff")
	f.Add(" ", headerEscapedUUID, "%41")
	f.Fuzz(func(t *testing.T, uuid, key, value string) {
		sent := message.NewMessage(uuid, []byte("body"))
		sent.Metadata.Set(key, value)
		if _, ok := sent.Metadata["lockstep-ttl"]; ok {
			return // not sent
		}
		h, _, err := headers(sent)
		if err != nil {
			t.Fatalf("headers: %v", err)
		}
		for name := range h {
			if isReserved(name) {
				t.Errorf("header %q", name)
			}
		}
		wire := "NATS/1.0\r\n"
		for name, values := range h {
			wire += name + ": " + values[0] + "\r\n"
		}
		back, err := nats.DecodeHeadersMsg([]byte(wire + "\r\n"))
		if err != nil {
			t.Fatalf("decode headers: %v", err)
		}
		have := decode(&nats.Msg{Header: back, Data: []byte("body")})
		if have.UUID != uuid {
			t.Errorf("UUID: have %q, want %q", have.UUID, uuid)
		}
		if diff := cmp.Diff(sent.Metadata, have.Metadata); diff != "" {
			t.Errorf("metadata (-want +have):\n%s", diff)
		}
	})
}
