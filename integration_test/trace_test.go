package integration_test

import (
	"context"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/outbox"
	"github.com/lockstep-go/lockstep/relay"
)

// The trace of whoever writes goes on in the relay and in the consumer, on every broker:
// from the commit until it is published, and from there until it is applied.
func TestTraceFromWriteToApply(t *testing.T) {
	t.Parallel()
	for name, rigOf := range map[string]func(t *testing.T, entities ...entity) *rig{
		"rabbitmq": newRig, "jetstream": newLocalRig, "postgres": newPostgresRig,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rigOf(t, account())
			ended := tracetest.NewInMemoryExporter()
			provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(ended))
			r.relay(t, r.brokerURL, relay.Config{TracerProvider: provider})
			r.consume(t, r.brokerURL, consumer.Config{TracerProvider: provider})

			ctx, span := provider.Tracer("service").Start(t.Context(), "rename the account")
			began := time.Now()
			if err := r.ob.InTx(ctx, r.master, func(ctx context.Context, tx *outbox.Tx) error { return r.put(ctx, tx, 1, "traced") }); err != nil {
				t.Fatal(err)
			}
			span.End()
			r.do(t, func(ctx context.Context, tx *outbox.Tx) error { return r.put(ctx, tx, 2, "not traced") })
			until(t, "the spans have ended", func() bool { return len(ended.GetSpans()) >= 3 })
			r.settled(t)

			spans := map[string]tracetest.SpanStub{}
			for _, s := range ended.GetSpans() {
				spans[s.Name] = s
			}
			entity := r.id("account")
			written, published, applied := spans["rename the account"], spans["publish "+entity], spans["apply "+entity]
			if n := len(ended.GetSpans()); n != 3 || len(spans) != 3 {
				t.Fatalf("%d spans of %d kinds, want the writer's, the relay's and the consumer's", n, len(spans))
			}
			for _, s := range []struct {
				what        string
				span, above tracetest.SpanStub
			}{{"the relay's", published, written}, {"the consumer's", applied, published}} {
				if s.span.Parent.SpanID() != s.above.SpanContext.SpanID() || s.span.SpanContext.TraceID() != written.SpanContext.TraceID() {
					t.Errorf("%s span is a child of %v, want it below %q", s.what, s.span.Parent.SpanID(), s.above.Name)
				}
			}
			const clocks = 100 * time.Millisecond // the event's id has milliseconds, by the database's clock
			if published.StartTime.Before(began.Add(-clocks)) || published.EndTime.Before(published.StartTime) ||
				applied.EndTime.Before(published.StartTime) || applied.EndTime.Before(applied.StartTime) {
				t.Errorf("written at %v, published from %v to %v, applied from %v to %v: want them one after the other",
					began, published.StartTime, published.EndTime, applied.StartTime, applied.EndTime)
			}
		})
	}
}
