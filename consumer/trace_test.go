package consumer

import (
	"context"
	"errors"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-go/lockstep/event"
)

const sentTrace, sentSpan = "0102030405060708090a0b0c0d0e0f10", "0102030405060708"

func inSpan(m *message.Message) *message.Message {
	m.Metadata.Set(event.HeaderTraceParent, "00-"+sentTrace+"-"+sentSpan+"-01")
	return m
}

// wantSpan expects a child of the sender's span.
func wantSpan(t *testing.T, s tracetest.SpanStub, name string, failed bool) {
	t.Helper()
	if s.Name != name || s.Parent.SpanID().String() != sentSpan || s.SpanContext.TraceID().String() != sentTrace {
		t.Errorf("span %q of %v in %v, want %q, a child of the sender's", s.Name, s.Parent.SpanID(), s.SpanContext.TraceID(), name)
	}
	if (s.Status.Code == codes.Error) != failed {
		t.Errorf("span %q has status %v, want failed: %v", s.Name, s.Status, failed)
	}
}

func TestSpansFromTheBrokerToTheCommit(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		exporter := tracetest.NewInMemoryExporter()
		provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))
		calls := make(chan trace.SpanContext, 3)
		r, run := runAuthors(t, d, Config{TracerProvider: provider}, func(ctx context.Context, _ Tx, ev Event[author]) error {
			calls <- trace.SpanContextFromContext(ctx)
			if ev.Key == "1" && ev.Attempt == 1 {
				return errors.New("not now")
			}
			return nil
		})
		run.broker.requeue = true
		run.broker.deliver(inSpan(authorEvent("SAVE", 1, 1, "one")))
		eventually(t, "the second attempt's span has ended", func() bool { return len(exporter.GetSpans()) == 2 })
		run.broker.deliver(authorEvent("SAVE", 2, 1, "untraced"))
		eventually(t, "both are applied", func() bool { return r.Stats().Applied == 2 })
		spans := exporter.GetSpans()
		if len(spans) != 2 {
			t.Fatalf("%d spans, want 2", len(spans))
		}
		for i, s := range spans {
			wantSpan(t, s, "apply author", i == 0)
			if in := <-calls; !in.Equal(s.SpanContext) {
				t.Errorf("attempt %d was called in the span %v, want %v", i+1, in.SpanID(), s.SpanContext.SpanID())
			}
		}
		if in := <-calls; in.IsValid() {
			t.Errorf("an event without a span was handled in %v", in.SpanID())
		}
	})
}

func TestSpansOfTables(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		exporter := tracetest.NewInMemoryExporter()
		r := accountRig(t, d)
		r.tracer = sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)).Tracer("test")
		broker := newTestBroker()
		r.start(t, broker, broker)
		broker.deliver(inSpan(save(1, 1, "one")), save(2, 1, "untraced"), inSpan(save(1, 2, "two")))
		eventually(t, "the spans have ended", func() bool { return len(exporter.GetSpans()) == 2 })
		for _, s := range exporter.GetSpans() {
			wantSpan(t, s, "apply account", false)
		}
	})
}

func TestSpansOfSingleMessages(t *testing.T) {
	t.Parallel()
	exporter := tracetest.NewInMemoryExporter()
	r := authorConsumer(t, SQLite, Config{TracerProvider: sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter))}, func(_ context.Context, _ Tx, ev Event[author]) error {
		if ev.Key == "2" {
			return errors.New("no")
		}
		return nil
	})
	t.Cleanup(func() { _ = r.Close() })
	for i := 1; i <= 2; i++ {
		if _, err := r.Apply(t.Context(), inSpan(authorEvent("SAVE", i, 1, "x"))); err != nil {
			t.Fatal(err)
		}
	}
	spans := exporter.GetSpans()
	if len(spans) != 2 {
		t.Fatalf("%d spans, want 2", len(spans))
	}
	wantSpan(t, spans[0], "apply author", false)
	wantSpan(t, spans[1], "apply author", true)
}

// What is acknowledged just before the end of Run has been applied, also where its span
// ends with Run's.
func TestSpansAtTheEndOfRun(t *testing.T) {
	t.Parallel()
	exporter := tracetest.NewInMemoryExporter()
	r := accountRig(t, SQLite)
	r.tracer = sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)).Tracer("test")
	run := &runner{Consumer: r.Consumer, spans: newSpans()}
	close(run.spans.over)
	for i, in := range r.read(t, []*message.Message{inSpan(save(1, 1, "x")), inSpan(save(2, 1, "x")), inSpan(save(3, 1, "x"))}) {
		for range 20 {
			in.msg = in.msg.Copy()
			switch i {
			case 0:
				in.msg.Ack()
			case 1:
				in.msg.Nack()
			}
			run.trace(in)
			run.spans.group.Wait()
		}
	}
	for i, s := range exporter.GetSpans() {
		want := []string{"", "given back", "not settled"}[i/20]
		if s.Status.Description != want {
			t.Errorf("span %d has the status %q, want %q", i, s.Status.Description, want)
		}
	}
}
