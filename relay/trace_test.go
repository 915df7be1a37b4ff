package relay_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/testdb"
	"github.com/lockstep-go/lockstep/relay"
)

// headers is a broker that keeps the messages' headers, by payload.
type headers struct {
	*recorder
	of map[string]message.Metadata
}

func (h headers) PublishAsync(ctx context.Context, topics []string, msgs []*message.Message) func(context.Context) []error {
	h.mu.Lock()
	for _, m := range msgs {
		h.of[string(m.Payload)] = m.Metadata
	}
	h.mu.Unlock()
	return h.recorder.PublishAsync(ctx, topics, msgs)
}

func TestSpansFromCommitToConfirmation(t *testing.T) {
	t.Parallel()
	const trace, writer = "0102030405060708090a0b0c0d0e0f10", "0102030405060708"
	for _, on := range []bool{true, false} {
		db, _ := testdb.SQLite(t)
		m := migrated(t, db, relay.SQLite)
		id, err := uuid.NewV7()
		if err != nil {
			t.Fatal(err)
		}
		written := time.Now()
		for _, payload := range []string{"a1", "b1"} {
			if _, err := m.ExecContext(t.Context(), `INSERT INTO outbox (topic, key, payload, metadata) VALUES ('account', ?1, ?2, ?3)`, payload[:1], []byte(payload),
				`{"lockstep-event-id": "`+id.String()+`", "traceparent": "00-`+trace+`-`+writer+`-01", "tracestate": "a=b"}`); err != nil {
				t.Fatal(err)
			}
		}
		m.put(t, "c1") // not traced
		spans := tracetest.NewInMemoryExporter()
		cfg := relay.Config{MaxAttempts: 1}
		if on {
			cfg.TracerProvider = sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
		}
		pub := headers{&recorder{fate: func(p string) error {
			if p == "b1" {
				return refusal{permanent: true}
			}
			return nil
		}}, map[string]message.Metadata{}}
		_, stop := m.start(t, pub, cfg)
		m.drained(t)
		stop()
		if pub.of["c1"][event.HeaderTraceParent] != "" {
			t.Errorf("a message without a span names %q", pub.of["c1"][event.HeaderTraceParent])
		}
		all := spans.GetSpans()
		if !on {
			if have := pub.of["a1"][event.HeaderTraceParent]; len(all) != 0 || have != "00-"+trace+"-"+writer+"-01" {
				t.Errorf("%d spans and header %q without a provider, want none and the writer's", len(all), have)
			}
			continue
		}
		if len(all) != 2 {
			t.Fatalf("%d spans, want 2", len(all))
		}
		for i, payload := range []string{"a1", "b1"} {
			s := all[i]
			if s.Name != "publish account" || s.Parent.SpanID().String() != writer || s.SpanContext.TraceID().String() != trace {
				t.Errorf("span %+v is not a child of the writer's", s)
			}
			if early := written.Sub(s.StartTime); early < -time.Second || early > time.Second || !s.EndTime.After(s.StartTime) {
				t.Errorf("the span is from %v to %v, want it from %v on", s.StartTime, s.EndTime, written)
			}
			if have := pub.of[payload]; !strings.Contains(have[event.HeaderTraceParent], s.SpanContext.SpanID().String()) || have[event.HeaderTraceState] != "a=b" {
				t.Errorf("the message names %v, want the relay's span %s", have, s.SpanContext.SpanID())
			}
			if failed := s.Status.Code == codes.Error; failed != (payload == "b1") {
				t.Errorf("%s: the span failed: %v", payload, failed)
			}
		}
	}
}
