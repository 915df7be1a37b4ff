package relay

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/tracing"
)

// traced begins a span for each message whose writer was in one, and makes it the
// span that the message names. It returns nil when there is none. A span lasts
// from when the event was made, as far as its id tells, until the broker's answer.
func (r *Relay) traced(rows []row, msgs []*message.Message) []trace.Span {
	if r.tracer == nil {
		return nil
	}
	var spans []trace.Span
	for i, msg := range msgs {
		writer, ok := tracing.Parent(msg.Metadata)
		if !ok {
			continue
		}
		options := []trace.SpanStartOption{
			trace.WithSpanKind(trace.SpanKindProducer),
			trace.WithAttributes(
				attribute.String("messaging.destination.name", rows[i].topic),
				attribute.String("messaging.message.id", msg.UUID),
				attribute.String("lockstep.key", rows[i].unit.key),
				attribute.Int64("lockstep.outbox_id", rows[i].id),
			),
		}
		if made := madeAt(msg.UUID); !made.IsZero() && made.Before(time.Now()) {
			options = append(options, trace.WithTimestamp(made))
		}
		if n := len(rows[i].skipped); n > 0 {
			options = append(options, trace.WithAttributes(attribute.Int("lockstep.collapsed", n)))
		}
		_, span := r.tracer.Start(trace.ContextWithRemoteSpanContext(context.Background(), writer), "publish "+event.EntityOf(rows[i].topic), options...)
		if spans == nil {
			spans = make([]trace.Span, len(rows))
		}
		spans[i] = span
		if parent, state := tracing.HeadersOf(span.SpanContext()); parent != "" {
			msg.Metadata[event.HeaderTraceParent] = parent
			if delete(msg.Metadata, event.HeaderTraceState); state != "" {
				msg.Metadata[event.HeaderTraceState] = state
			}
		}
	}
	return spans
}

// madeAt is the time in a UUIDv7; zero for other ids.
func madeAt(id string) time.Time {
	u, err := uuid.Parse(id)
	if err != nil || u.Version() != 7 {
		return time.Time{}
	}
	return time.Unix(u.Time().UnixTime())
}

// endSpans ends spans with the broker's answers; nil is a confirmation of all.
func endSpans(spans []trace.Span, errs []error) {
	for i, span := range spans {
		if span == nil {
			continue
		}
		if errs != nil && errs[i] != nil {
			span.RecordError(errs[i])
			span.SetStatus(codes.Error, "not confirmed")
		}
		span.End()
	}
}
