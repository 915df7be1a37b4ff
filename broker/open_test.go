package broker_test

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/broker/brokertest"
	"github.com/lockstep-go/lockstep/broker/jetstream"
	"github.com/lockstep-go/lockstep/broker/memory"
	"github.com/lockstep-go/lockstep/broker/rabbitmq"
	"github.com/lockstep-go/lockstep/broker/sql"
)

var (
	_ broker.Broker      = (*jetstream.Broker)(nil)
	_ broker.Broker      = (*memory.Broker)(nil)
	_ broker.Broker      = (*rabbitmq.Broker)(nil)
	_ broker.Broker      = (*sql.Broker)(nil)
	_ brokertest.Adapter = broker.Broker(nil)

	_ broker.Letterbox = (*jetstream.Broker)(nil)
	_ broker.Letterbox = (*memory.Broker)(nil)
	_ broker.Letterbox = (*rabbitmq.Broker)(nil)
	_ broker.Letterbox = (*sql.Broker)(nil)

	_ message.Publisher            = broker.Broker(nil)
	_ message.Subscriber           = broker.Broker(nil)
	_ message.SubscribeInitializer = broker.Broker(nil)
)

func TestOpenWithoutServer(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"memory://",
		"memory:",
		"jetstream+embedded://" + t.TempDir(),
		"jetstream+embedded://" + t.TempDir() + "?stream=orders&sync=always&prefetch=7&window=3",
	} {
		b, err := broker.Open(t.Context(), url, broker.Options{Prefetch: 5})
		if err != nil {
			t.Errorf("Open(%q): %v", url, err)
			continue
		}
		if err := b.SubscribeInitialize("q"); err != nil {
			t.Errorf("%s: SubscribeInitialize: %v", url, err)
		}
		if err := b.Publish("q", message.NewMessage("1", nil)); err != nil {
			t.Errorf("%s: Publish: %v", url, err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("%s: Close: %v", url, err)
		}
	}
}

// TestOpenRejects: an error names the forms of URL that are known, and never
// holds the password, wherever the URL is broken.
func TestOpenRejects(t *testing.T) {
	t.Parallel()
	const password = "s3cret"
	tests := []struct {
		url     string
		unknown bool // the kind of URL is unknown: ErrURL, with the list
	}{
		{"", true},
		{"localhost", true},
		{"kafka://user:s3cret@host:9092/topic", true},
		{"kafka://user:s3cret@host:bad", true},
		{"AMQP//user:s3cret@host", true},
		{"user:s3cret@host:5672", true},
		{"memory://s3cret", false},
		{"amqp://user:s3cret@host:bad/", false},
		{"amqp://user:s3c/ret@host:x", false},
		{"nats://user:s3cret@host:bad", false},
		{"amqp://user:p@s3cret#x@127.0.0.1:1/", false},
		{"nats://user:p@s3cret/x@127.0.0.1:1", false},
		{"kafka://user:p@s3cret#x@127.0.0.1:1", true},
		{"nats://user:s3cret@", false},
		{"nats://user:s3cret@host?nonsense=1", false},
		{"nats://user:s3cret@host,http://user:s3cret@host", false},
		{"nats://user:s3cret@127.0.0.1:1", false},
		{"nats://user:12,s3cret@127.0.0.1:1", false},
		{"nats://s3cret@127.0.0.1:1,127.0.0.1:2", false},
		{"nats://user:s3cret@127.0.0.1:1?certfile=x", false},
		{"nats://user:s3cret@127.0.0.1:1?creds=x&nkey=y", false},
		{"nats://user:s3cret@127.0.0.1:1?nkey=/none", false},
		{"tls://user:s3cret@127.0.0.1:1?cacertfile=/none", false},
		{"amqp://user:s3cret@127.0.0.1:1/", false},
		{"amqp://user:s3cret@host/?colour=red", false},
		{"amqp://user:s3cret@host/?queue_type=mirrored", false},
		{"nats://user:s3cret@host?window=0", false},
		{"nats://host?stream=a.b", false},
		{"postgres://user:s3cret@host:bad/db", false},
		{"postgres://user:p@s3cret#x@127.0.0.1:1/db", false},
		{"postgres://user:s3cret@127.0.0.1:1/db?sslmode=disable", false},
		{"postgresql://user:s3cret@127.0.0.1:1/db?prefetch=many", false},
		{"postgres://user:s3cret@127.0.0.1:1/db?sslmode=s3cret", false},
		{"postgres://user:s3cret@127.0.0.1:1/db?poll=1ms", false},
		{"postgres://127.0.0.1:1/db?user=x&password=s3cret&sslmode=disable", false},
		{"jetstream+embedded://", false},
		{"jetstream+embedded:///", false},
		{"jetstream+embedded://host/path", false},
		{"jetstream+embedded://user:s3cret@/path", false},
		{"jetstream+embedded:///path?sync=never", false},
		{"jetstream+embedded:///path?creds=x", false},
		{"jetstream+embedded:///pa%zzth", false},
	}
	for _, test := range tests {
		b, err := broker.Open(t.Context(), test.url, broker.Options{})
		if err == nil {
			t.Errorf("Open(%q): no error", test.url)
			_ = b.Close() // reported already
			continue
		}
		if b != nil {
			t.Errorf("Open(%q): a Broker beside the error", test.url)
		}
		text := err.Error()
		if strings.Contains(text, password) || strings.Contains(text, "s3c") {
			t.Errorf("Open(%q): the error holds the password: %v", test.url, err)
		}
		if errors.Is(err, broker.ErrURL) && test.unknown != strings.Contains(text, broker.Forms) {
			t.Errorf("Open(%q): list of known forms: have %v, want %v in: %v", test.url, !test.unknown, test.unknown, err)
		}
		if test.unknown && !errors.Is(err, broker.ErrURL) {
			t.Errorf("Open(%q): have %v, want ErrURL", test.url, err)
		}
	}
}

// TestDocumentedParameters: docs/configuration.md names the parameters that the adapters know and no others,
// and the defaults that it gives are values that they take.
func TestDocumentedParameters(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	parameter := regexp.MustCompile("`([a-z_]+)(?:=([^`]*))?`")
	for row, base := range map[string]string{"`amqp://": "amqps://127.0.0.1:1", "`nats://": "nats://127.0.0.1:1"} {
		_, table, _ := strings.Cut(string(page), "\n| URL | parameters, with their defaults |\n")
		_, cell, _ := strings.Cut(table, "\n| "+row)
		cell, _, _ = strings.Cut(cell, "\n")
		_, cell, _ = strings.Cut(cell, " | ")
		var documented []string
		for _, found := range parameter.FindAllStringSubmatch(cell, -1) {
			name, value := found[1], found[2]
			documented = append(documented, name)
			if value == "" || value == "FILE" {
				continue // of which other tests know what they take
			}
			b, err := broker.Open(t.Context(), base+"?"+name+"="+value, broker.Options{})
			if err == nil {
				_ = b.Close() // reported below
			}
			if err == nil || errors.Is(err, broker.ErrURL) {
				t.Errorf("%s?%s=%s: have %v, want an error of connecting alone", base, name, value, err)
			}
		}
		_, err := broker.Open(t.Context(), base+"?colour=red", broker.Options{})
		if err == nil {
			t.Fatalf("%s: an unknown parameter is no error", base)
		}
		_, list, _ := strings.Cut(err.Error(), "known are ")
		known := strings.Split(list, ", ")
		slices.Sort(documented)
		if diff := cmp.Diff(known, documented); diff != "" {
			t.Errorf("parameters of %s (-code +docs/configuration.md):\n%s", base, diff)
		}
	}
}
