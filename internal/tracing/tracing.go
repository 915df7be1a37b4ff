// Package tracing carries a span's context in a message's headers, as W3C Trace
// Context has them, and back. It needs OpenTelemetry's API only and allocates
// nothing for a context without a span.
package tracing

import (
	"context"
	"strconv"

	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-go/lockstep/event"
)

// Name is the instrumentation scope of all our spans.
const Name = "github.com/lockstep-go/lockstep"

// Headers returns the headers of the span that ctx is in; both are "" if it is in
// none, and state if it has none.
func Headers(ctx context.Context) (parent, state string) {
	return HeadersOf(trace.SpanContextFromContext(ctx))
}

// HeadersOf is [Headers] for a span's context at hand.
func HeadersOf(span trace.SpanContext) (parent, state string) {
	if !span.IsValid() {
		return "", ""
	}
	return "00-" + span.TraceID().String() + "-" + span.SpanID().String() + "-" + span.TraceFlags().String(), span.TraceState().String()
}

// Append appends ctx's headers, if it is in a span, as members of a JSON object
// behind at least one other member.
func Append(ctx context.Context, object []byte) []byte {
	parent, state := Headers(ctx)
	if parent == "" {
		return object
	}
	object = member(object, event.HeaderTraceParent, parent)
	if state != "" {
		object = member(object, event.HeaderTraceState, state)
	}
	return object
}

// Object returns ctx's headers as a JSON object; an empty one outside of spans.
func Object(ctx context.Context) string {
	members := Append(ctx, nil)
	if members == nil {
		return "{}"
	}
	members[0] = '{' // was the comma
	return string(append(members, '}'))
}

func member(object []byte, name, value string) []byte {
	object = event.AppendString(append(object, ','), name)
	return event.AppendString(append(object, ':'), value)
}

// Parent returns the span's context that headers carry, and whether they carry a
// valid one.
func Parent(headers map[string]string) (trace.SpanContext, bool) {
	text := headers[event.HeaderTraceParent]
	// version-traceid-spanid-flags; later versions may have more behind them
	if len(text) < 55 || text[2] != '-' || text[35] != '-' || text[52] != '-' || text[:2] == "ff" {
		return trace.SpanContext{}, false
	}
	if len(text) > 55 && (text[:2] == "00" || text[55] != '-') {
		return trace.SpanContext{}, false
	}
	id, err := trace.TraceIDFromHex(text[3:35])
	if err != nil {
		return trace.SpanContext{}, false
	}
	span, err := trace.SpanIDFromHex(text[36:52])
	if err != nil {
		return trace.SpanContext{}, false
	}
	state, err := trace.ParseTraceState(headers[event.HeaderTraceState])
	if err != nil {
		state = trace.TraceState{} // a state that cannot be read is dropped, the parent is not
	}
	flags, err := strconv.ParseUint(text[53:55], 16, 8)
	if err != nil {
		return trace.SpanContext{}, false
	}
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: span, TraceFlags: trace.TraceFlags(flags) & trace.FlagsSampled, TraceState: state, Remote: true}), true
}
