package event_test

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
)

// documented returns an example from docs/wire.md as it would be on the wire.
func documented(t *testing.T, name string) []byte {
	t.Helper()
	page, err := os.ReadFile("../docs/wire.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(page), "<!-- example: "+name+" -->\n```json\n")
	example, _, closed := strings.Cut(rest, "```\n")
	if !found || !closed {
		t.Fatalf("docs/wire.md has no example %q", name)
	}
	var body bytes.Buffer
	if err := json.Compact(&body, []byte(example)); err != nil {
		t.Fatalf("example %q: %v", name, err)
	}
	return body.Bytes()
}

// The examples of docs/wire.md are what is written and read here, to the byte.
func TestDocumentedExamples(t *testing.T) {
	t.Parallel()
	nine := []string{
		"signal_type", "cqrs_id", "instance_data", "previous_data", "instance_pk", "correlation_id", "retries", "expires", "meta",
	}
	for name, want := range map[string]struct {
		signal   event.Signal
		id, key  string
		revision int64
		fields   []string
		expires  string
	}{
		"event":  {event.Save, "account", "42", 3, []string{"id", "name", "balance", "opened"}, "2026-11-23T21:31:45+00:00"},
		"delete": {event.Delete, "author", "ada", 4, []string{event.FieldDeletedKey, "slug"}, ""},
	} {
		body := documented(t, name)
		if diff := cmp.Diff(nine, names(body)); diff != "" {
			t.Errorf("example %q: keys (-want +have):\n%s", name, diff)
		}
		e, err := event.Decode(body)
		if err != nil {
			t.Errorf("example %q: %v", name, err)
			continue
		}
		key, _ := event.Text(e.Key)
		expires := ""
		if !e.Expires.IsZero() {
			expires = event.FormatExpires(e.Expires)
		}
		if e.Signal != want.signal || e.CQRSID != want.id || key != want.key || e.Quirks != 0 || expires != want.expires {
			t.Errorf("example %q: decoded as %+v", name, e)
		}
		if v, err := e.Version(); err != nil || v.Revision != want.revision {
			t.Errorf("example %q: version %+v, %v", name, v, err)
		}
		if diff := cmp.Diff(append(want.fields, event.FieldRevision, event.FieldUpdated), names(e.Data)); diff != "" {
			t.Errorf("example %q: fields (-want +have):\n%s", name, diff)
		}
		if have := e.AppendJSON(nil); !bytes.Equal(have, body) {
			t.Errorf("example %q, decoded and encoded again:\nhave %s\nwant %s", name, have, body)
		}
	}
}
