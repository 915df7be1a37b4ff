package event_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
)

// Traffic captured from a django-cqrs 27.0.0 master must decode, and encode
// again to the same meaning with the keys in the same order.
func TestCapturedTraffic(t *testing.T) {
	t.Parallel()
	files, _ := filepath.Glob("testdata/django-cqrs/*.messages.jsonl")
	if len(files) != 6 {
		t.Fatalf("%d captured models, want 6", len(files))
	}
	for _, file := range files {
		for i, body := range capturedBodies(t, file) {
			e, err := event.Decode(body)
			if err != nil {
				t.Errorf("%s:%d: %v", file, i+1, err)
				continue
			}
			if _, err := e.Version(); err != nil {
				t.Errorf("%s:%d: %v", file, i+1, err)
			}
			again := e.AppendJSON(nil)
			if diff := cmp.Diff(decodeAny(t, body), decodeAny(t, again)); diff != "" {
				t.Errorf("%s:%d: decoded and encoded again (-want +have):\n%s", file, i+1, diff)
			}
			if diff := cmp.Diff(names(body), names(again)); diff != "" {
				t.Errorf("%s:%d: order of the keys (-want +have):\n%s", file, i+1, diff)
			}
		}
	}
}

func capturedBodies(t *testing.T, file string) (bodies [][]byte) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var message struct{ Body string }
		if err := json.Unmarshal(lines.Bytes(), &message); err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, []byte(message.Body))
	}
	if len(bodies) == 0 {
		t.Fatalf("%s holds no message", file)
	}
	return bodies
}

// decodeAny keeps numbers as they are written.
func decodeAny(t *testing.T, body []byte) (v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return v
}

func names(object []byte) (all []string) {
	for name := range event.Members(object) {
		all = append(all, string(name))
	}
	return all
}

const minimal = `"signal_type":"SAVE","cqrs_id":"a","instance_data":{"id":1},"instance_pk":1`

func TestDecodeIsLiberal(t *testing.T) {
	t.Parallel()
	utc := time.Date(2026, 11, 23, 21, 12, 7, 0, time.UTC)
	tests := map[string]struct {
		body string
		want func(e *event.Event)
	}{
		"four required keys": {`{` + minimal + `}`, func(*event.Event) {}},
		"spaces":             {" {\n" + minimal + "\t} ", func(*event.Event) {}},
		"nulls":              {`{"signal_type":"SAVE","cqrs_id":"a","instance_data":null,"instance_pk":null}`, func(e *event.Event) { e.Data, e.Key = nil, nil }},
		"escaped name":       {`{"signal\u005ftype":"SAVE","cqrs_id":"\u0061","instance_data":{"id":1},"instance_pk":1}`, func(*event.Event) {}},
		"the last twin wins": {`{"cqrs_id":"b",` + minimal + `}`, func(*event.Event) {}},
		"a bad twin":         {`{"cqrs_id":[1],` + minimal + `}`, func(*event.Event) {}},
		"NaN":                {`{"signal_type":"SAVE","cqrs_id":"a","instance_data":{"id":1,"x":NaN,"y":[-Infinity,"NaN"]},"instance_pk":1}`, func(e *event.Event) { e.Data = []byte(`{"id":1,"x":null,"y":[null,"NaN"]}`); e.Quirks = event.QuirkNaN }},
		"expires with T":     {`{` + minimal + `,"expires":"2026-11-23T21:12:07+00:00"}`, func(e *event.Event) { e.Expires = utc }},
		"expires with Z":     {`{` + minimal + `,"expires":"2026-11-23T21:12:07Z"}`, func(e *event.Event) { e.Expires = utc }},
		"expires elsewhere":  {`{` + minimal + `,"expires":"2026-11-24 00:12:07+03:00"}`, func(e *event.Event) { e.Expires = utc }},
		"expires, fraction":  {`{` + minimal + `,"expires":"2026-11-23T21:12:07.5+00:00"}`, func(e *event.Event) { e.Expires = utc.Add(500 * time.Millisecond) }},
		"expires null":       {`{` + minimal + `,"expires":null}`, func(*event.Event) {}},
		"expires naive":      {`{` + minimal + `,"expires":"2026-11-23T21:12:07"}`, func(e *event.Event) { e.Quirks = event.QuirkExpires }},
		"expires a number":   {`{` + minimal + `,"expires":5}`, func(e *event.Event) { e.Quirks = event.QuirkExpires }},
		"expires empty":      {`{` + minimal + `,"expires":""}`, func(e *event.Event) { e.Quirks = event.QuirkExpires }},
		"retries":            {`{` + minimal + `,"retries":3}`, func(e *event.Event) { e.Retries = 3 }},
		"retries below zero": {`{` + minimal + `,"retries":-5}`, func(*event.Event) {}},
		"retries text":       {`{` + minimal + `,"retries":"x"}`, func(e *event.Event) { e.Quirks = event.QuirkRetries }},
		"correlation, meta": {`{` + minimal + `,"correlation_id":"c","meta":{"k":[1]},"previous_data":{"id":null}}`, func(e *event.Event) {
			e.CorrelationID, e.Meta, e.Previous = []byte(`"c"`), []byte(`{"k":[1]}`), []byte(`{"id":null}`)
		}},
		"a quote in a string": {`{"signal_type":"SAVE","cqrs_id":"a","instance_data":{"id":1},"instance_pk":"}\\\"{,"}`, func(e *event.Event) { e.Key = []byte(`"}\\\"{,"`) }},
	}
	for name, tt := range tests {
		want := event.Event{Signal: event.Save, CQRSID: "a", Data: []byte(`{"id":1}`), Key: []byte(`1`)}
		tt.want(&want)
		have, err := event.Decode([]byte(tt.body))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		opts := cmp.Options{cmp.AllowUnexported(event.Event{}), cmp.Transformer("raw", func(r json.RawMessage) string { return string(r) })}
		if diff := cmp.Diff(want, have, opts); diff != "" {
			t.Errorf("%s (-want +have):\n%s", name, diff)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"":                           "malformed",
		"{":                          "malformed",
		"not json":                   "malformed",
		"\xff{}":                     "malformed",
		`{` + minimal + `} x`:        "malformed",
		`{` + minimal + `,"x":NaNa}`: "malformed",
		"5":                          "malformed",
		"null":                       "malformed",
		"[]":                         "malformed",
		`"abc"`:                      "malformed",
		"{}":                         "incomplete",
		`{"signal_type":"SAVE"}`:     "incomplete",
		`{"signal_type":"SAVE","cqrs_id":["a"],"instance_data":{},"instance_pk":1}`: "incomplete",
		`{"signal_type":"SAVE","cqrs_id":null,"instance_data":{},"instance_pk":1}`:  "incomplete",
		`{"signal_type":"save","cqrs_id":"a","instance_data":{},"instance_pk":1}`:   "signal",
		`{"signal_type":null,"cqrs_id":"a","instance_data":{},"instance_pk":1}`:     "signal",
		`{"signal_type":["SAVE"],"cqrs_id":"a","instance_data":{},"instance_pk":1}`: "signal",
	} {
		_, err := event.Decode([]byte(body))
		var decode *event.DecodeError
		if !errors.As(err, &decode) || decode.Reason != want {
			t.Errorf("Decode(%q) = %v, want a DecodeError with reason %s", body, err, want)
		}
	}
}

func TestUnknownKeysAreKept(t *testing.T) {
	t.Parallel()
	e, err := event.Decode([]byte(`{"a\"b":1,` + minimal + `,"z":{"deep":[1,2]},"retries":2}`))
	if err != nil {
		t.Fatal(err)
	}
	e.Retries++
	want := `{"signal_type":"SAVE","cqrs_id":"a","instance_data":{"id":1},"previous_data":null,"instance_pk":1,` +
		`"correlation_id":null,"retries":3,"expires":null,"meta":{},"a\"b":1,"z":{"deep":[1,2]}}`
	if have := string(e.AppendJSON(nil)); have != want {
		t.Errorf("encoded again\nhave %s\nwant %s", have, want)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	updated := time.Date(2026, 1, 2, 3, 4, 5, 123456000, time.UTC)
	for data, want := range map[string]event.Version{
		`{"cqrs_revision":7,"cqrs_updated":"2026-01-02 03:04:05.123456+00:00"}`:   {Revision: 7, Updated: updated},
		`{"cqrs_revision":"7","cqrs_updated":"2026-01-02T06:04:05.123456+03:00"}`: {Revision: 7, Updated: updated},
		`{"cqrs_revision":1.7,"cqrs_updated":"2026-01-02 03:04:05.123456"}`:       {Revision: 1, Updated: updated},
		`{"cqrs_revision":-3,"cqrs_updated":"2026-01-02T03:04:05.123456Z"}`:       {Revision: -3, Updated: updated},
	} {
		e := event.Event{Data: []byte(data)}
		have, err := e.Version()
		if err != nil || have.Revision != want.Revision || !have.Updated.Equal(want.Updated) {
			t.Errorf("%s: %v, %v, want %v", data, have, err, want)
		}
	}
	for _, data := range []string{
		``, `{}`, `[]`, `{"cqrs_revision":1}`, `{"cqrs_updated":"2026-01-02 03:04:05+00:00"}`,
		`{"cqrs_revision":null,"cqrs_updated":"2026-01-02 03:04:05+00:00"}`, `{"cqrs_revision":"x","cqrs_updated":"2026-01-02 03:04:05+00:00"}`,
		`{"cqrs_revision":1e40,"cqrs_updated":"2026-01-02 03:04:05+00:00"}`, `{"cqrs_revision":1,"cqrs_updated":"yesterday"}`, `{"cqrs_revision":1,"cqrs_updated":5}`,
	} {
		e := event.Event{Data: []byte(data)}
		if v, err := e.Version(); err == nil {
			t.Errorf("%s: version %v, want an error", data, v)
		}
	}
}

func TestFormatTimes(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 6, 4, 5, 7919000, time.FixedZone("", 3*3600))
	if have, want := event.FormatTime(at), "2026-01-02 03:04:05.007919+00:00"; have != want {
		t.Errorf("FormatTime: %s, want %s", have, want)
	}
	if have, want := event.FormatExpires(at), "2026-01-02T03:04:05+00:00"; have != want {
		t.Errorf("FormatExpires: %s, want %s", have, want)
	}
}

func TestTopics(t *testing.T) {
	t.Parallel()
	for topic, want := range map[string]struct {
		entity string
		direct bool
	}{
		event.Topic("account"):                                         {"account", false},
		event.DirectTopic("billing", "account"):                        {"account", true},
		event.DirectTopic("billing.v2", "account"):                     {"account", true},
		event.DirectTopic(event.DeadLetterQueue("billing"), "account"): {"account", true},
		"cqrs.x": {"cqrs.x", false},
	} {
		if have := event.EntityOf(topic); have != want.entity || event.IsDirect(topic) != want.direct {
			t.Errorf("%s: entity %s, direct %v, want %v", topic, have, event.IsDirect(topic), want)
		}
	}
	if have, want := event.DirectTopic("billing", "account"), "cqrs.billing.account"; have != want {
		t.Errorf("direct topic %s, want %s", have, want)
	}
	for _, bad := range []string{"", "a b", "a*", "#", "a>b", "a\x00", string(make([]byte, 200))} {
		if event.ValidateName("ID", bad) == nil {
			t.Errorf("name %q is accepted", bad)
		}
	}
}

// What Decode takes must survive encoding and decoding again, and what is
// encoded must be JSON.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{` + minimal + `,"expires":"2026-11-23T21:12:07+00:00","meta":{"a":[1,{"b":"c"}]},"x":NaN}`))
	f.Add([]byte(`{"signal_type":"DELETE","cqrs_id":"\ud83d\ude00","instance_data":{"id":"\u0000"},"instance_pk":1.5e3}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := event.Decode(body)
		if err != nil {
			var decode *event.DecodeError
			if !errors.As(err, &decode) {
				t.Fatalf("error %v is not a DecodeError", err)
			}
			return
		}
		_, _ = e.Version()
		encoded := e.AppendJSON(nil)
		if !json.Valid(encoded) {
			t.Fatalf("%q encoded as %q, which is not JSON", body, encoded)
		}
		again, err := event.Decode(encoded)
		if err != nil {
			t.Fatalf("%q encoded as %q: %v", body, encoded, err)
		}
		if have := again.AppendJSON(nil); !bytes.Equal(have, encoded) {
			t.Fatalf("encoded %q, then %q", encoded, have)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	body := []byte(`{"signal_type":"SAVE","cqrs_id":"account","instance_data":{"id":1,"name":"a name of usual length","balance":1000.5,"note":"` +
		string(bytes.Repeat([]byte("x"), 200)) + `","cqrs_revision":3,"cqrs_updated":"2026-11-22 21:31:45.975633+00:00"},` +
		`"previous_data":null,"instance_pk":1,"correlation_id":null,"retries":0,"expires":null,"meta":{}}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := event.Decode(body); err != nil {
			b.Fatal(err)
		}
	}
}
