package tracing_test

import (
	"context"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-go/lockstep/internal/tracing"
)

func TestParent(t *testing.T) {
	t.Parallel()
	const good = "00-0102030405060708090a0b0c0d0e0f10-0102030405060708-01"
	for text, valid := range map[string]bool{
		good: true, good[:53] + "00": true, good[:53] + "ff": true, "cc" + good[2:] + "-later": true,
		"": false, good[:54]: false, good + "-more": false, "ff" + good[2:]: false, "cc" + good[2:] + "later": false, good[:53] + "zz": false,
		"00-00000000000000000000000000000000-0102030405060708-01": false, "00-0102030405060708090a0b0c0d0e0f10-0000000000000000-01": false,
	} {
		span, ok := tracing.Parent(map[string]string{"traceparent": text, "tracestate": "a=b"})
		if ok != valid || ok && (!span.IsRemote() || span.TraceState().String() != "a=b") {
			t.Errorf("%q is %v %+v, want %v", text, ok, span, valid)
		}
		if parent, _ := tracing.HeadersOf(span); text == good && parent != good {
			t.Errorf("%q comes back as %q", good, parent)
		}
	}
	if _, ok := tracing.Parent(map[string]string{"traceparent": good, "tracestate": "not a state"}); !ok {
		t.Error("a state that cannot be read takes the parent along")
	}
}

func TestNoSpanCostsNothing(t *testing.T) {
	type key struct{}
	ctx := context.WithValue(t.Context(), key{}, trace.SpanContext{})
	object := make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() {
		if len(tracing.Append(ctx, object)) > 0 || tracing.Object(ctx) != "{}" {
			t.Error("a span where there is none")
		}
		if _, ok := tracing.Parent(nil); ok {
			t.Error("a parent where there is none")
		}
	}); n != 0 {
		t.Errorf("%v allocations outside of spans, want none", n)
	}
}
