package consumer

import (
	"context"
	"sync"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-go/lockstep/internal/tracing"
)

// spans are those of one Run that have not ended.
type spans struct {
	group sync.WaitGroup
	over  chan struct{} // closed at the end of Run
}

func newSpans() *spans { return &spans{over: make(chan struct{})} }

// end ends all that are left and waits for them.
func (s *spans) end() {
	close(s.over)
	s.group.Wait()
}

// trace begins the span of a message that names one, as its child. In Run it lasts
// until the message is acknowledged or given back, whoever does that.
func (r *runner) trace(in *incoming) {
	sender, ok := tracing.Parent(in.msg.Metadata)
	if !ok {
		return
	}
	_, in.span = r.tracer.Start(
		trace.ContextWithRemoteSpanContext(context.Background(), sender), "apply "+in.ev.CQRSID,
		trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(
			attribute.String("messaging.destination.name", r.cfg.Queue),
			attribute.String("messaging.message.id", in.msg.UUID),
			attribute.String("lockstep.signal", string(in.ev.Signal)),
			attribute.String("lockstep.key", in.key),
			attribute.Int64("lockstep.revision", in.Revision),
			attribute.Int("lockstep.retries", in.ev.Retries),
		),
	)
	if r.spans == nil {
		return // the call for one message ends it
	}
	r.spans.group.Go(func() {
		select {
		case <-in.msg.Acked():
		case <-in.msg.Nacked():
		case <-r.spans.over: // and perhaps one of the others before
		}
		switch {
		case closed(in.msg.Acked()):
		case closed(in.msg.Nacked()):
			in.span.SetStatus(codes.Error, "given back")
		default:
			in.span.SetStatus(codes.Error, "not settled")
		}
		in.span.End()
	})
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// traceError notes in a message's span why it was not applied.
func (in *incoming) traceError(err error) {
	if in.span != nil && err != nil {
		in.span.RecordError(err)
		in.span.SetStatus(codes.Error, "not applied")
	}
}

// traceEnd ends the span of a message that is not Run's.
func (in *incoming) traceEnd(errs ...error) {
	if in == nil || in.span == nil {
		return
	}
	for _, err := range errs {
		in.traceError(err)
	}
	in.span.End()
}

// inSpan puts a handler into its message's span.
func (in *incoming) inSpan(ctx context.Context) context.Context {
	if in.span == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, in.span)
}
