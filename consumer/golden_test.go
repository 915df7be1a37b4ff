package consumer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-go/lockstep/event"
)

// goldenTables are replicas of the models whose traffic testdata/django-cqrs
// holds, as a Go service would declare them.
var goldenTables = map[string]string{
	"basic": `char_field varchar(200) NOT NULL, text_field text, date_field date, datetime_field timestamptz, bool_field boolean NOT NULL,
		null_bool_field boolean, int_field integer NOT NULL, bigint_field bigint, float_field double precision, decimal_field numeric(30,4),
		uuid_field uuid, json_field jsonb, null_char_field varchar(200), category bigint`,
	"tracked": `char_field varchar(200) NOT NULL, int_field integer, date_field date, datetime_field timestamptz, uuid_field uuid,
		decimal_field numeric(30,10), json_field jsonb, category bigint`,
	"author":   `name varchar(200) NOT NULL, publisher bigint`,
	"chosen":   `char_field varchar(200) NOT NULL`,
	"uuidpk":   `name varchar(200) NOT NULL`,
	"withmeta": `name varchar(200) NOT NULL`,
}

func goldenDDL(model string) string {
	key := "bigint"
	if model == "uuidpk" {
		key = "uuid"
	}
	return fmt.Sprintf(`CREATE TABLE %[1]s_ref (id %[2]s PRIMARY KEY, %[3]s, cqrs_revision bigint NOT NULL, cqrs_updated timestamptz NOT NULL)`,
		model, key, goldenTables[model])
}

// goldenMessages reads captured traffic, byte-exact.
func goldenMessages(t testing.TB, model string) []*message.Message {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "django-cqrs", model+".messages.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var messages []*message.Message
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Body []byte `json:"body_b64"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		messages = append(messages, django(string(line.Body)))
	}
	if err := lines.Err(); err != nil || len(messages) == 0 {
		t.Fatal(model, len(messages), err)
	}
	return messages
}

// goldenRows reads the rows that a correct replica holds after the traffic.
func goldenRows(t testing.TB, model string) []map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "django-cqrs", model+".rows.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Rows []map[string]any }
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	rows := make([]map[string]string, len(file.Rows))
	for i, row := range file.Rows {
		rows[i] = map[string]string{}
		for name, value := range row {
			rows[i][name] = plain(value)
		}
	}
	return rows
}

// unsentDeletion is a row that the master deleted: django-cqrs cannot send a
// DELETE with a UUID, so the traffic holds none and the row has to stay.
var unsentDeletion = map[string][]map[string]string{
	"uuidpk": {{"id": "3469aee9-a061-5cba-8068-bb4459d3fc7f", "name": "u4", "cqrs_revision": "0", "cqrs_updated": "2026-11-22 21:31:31.490014+00:00"}},
}

// plain writes a value so that those of a JSON document and those of the
// databases' drivers can be compared: times in one form, booleans as 1 and 0,
// documents without spaces and with sorted names.
func plain(v any) string {
	switch v := v.(type) {
	case bool:
		if v {
			return "1"
		}
		return "0"
	case map[string]any:
		text, _ := json.Marshal(v)
		return string(text)
	}
	text := shown(v)
	if strings.HasPrefix(text, "{") {
		var document map[string]any
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		if decoder.Decode(&document) == nil {
			return plain(document)
		}
	}
	if at, _, err := event.ParseTime(text); err == nil {
		return event.FormatTime(at)
	}
	return text
}

// goldenStored reads a table as goldenRows does.
func (r *rig) goldenStored(t testing.TB, table string) []map[string]string {
	t.Helper()
	rows, err := r.db.QueryContext(t.Context(), "SELECT * FROM "+table)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	names, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]string
	for rows.Next() {
		values, into := make([]any, len(names)), make([]any, len(names))
		for i := range into {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		line := map[string]string{}
		for i, name := range names {
			line[name] = plain(values[i])
		}
		all = append(all, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestCapturedTraffic: what a django-cqrs master sent gives the rows that a
// django-cqrs replica had, in one batch, one by one, and with each message twice.
func TestCapturedTraffic(t *testing.T) {
	t.Parallel()
	eachDialect(t, func(t *testing.T, d Dialect) {
		tables, ddl := map[string]Table{}, []string{}
		for model := range goldenTables {
			tables[model] = Table{Name: model + "_ref"}
			ddl = append(ddl, goldenDDL(model))
		}
		r := newRig(t, d, tables, ddl...)
		for model := range goldenTables {
			messages := goldenMessages(t, model)
			var twice []*message.Message
			for _, m := range messages {
				twice = append(twice, m, m.Copy())
			}
			want := append(goldenRows(t, model), unsentDeletion[model]...)
			for name, run := range map[string]func(){
				"one batch":             func() { r.batch(t, messages...) },
				"one batch, each twice": func() { r.batch(t, twice...) },
				"one by one": func() {
					for _, m := range messages {
						r.batch(t, m)
					}
				},
				"one by one, each twice": func() {
					for _, m := range twice {
						r.batch(t, m)
					}
				},
			} {
				mustExec(t, r.db, "DELETE FROM "+model+"_ref")
				mustExec(t, r.db, "DELETE FROM replica_tombstones")
				run()
				have := r.goldenStored(t, model+"_ref")
				for _, rows := range [][]map[string]string{want, have} {
					slices.SortFunc(rows, func(a, b map[string]string) int { return strings.Compare(a["id"], b["id"]) })
				}
				if diff := cmp.Diff(want, have); diff != "" {
					t.Errorf("%s, %s (-want +have):\n%s", model, name, diff)
				}
			}
		}
	})
}
