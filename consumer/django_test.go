package consumer

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/go-cmp/cmp"
)

// spelling is a value as a django-cqrs master may send it, and what a replica
// then holds.
type spelling struct{ wire, stored string }

// djangoColumns are columns with values in the spellings of ujson, of Django's
// REST framework, and of Python objects that were never read back.
var djangoColumns = []struct {
	name, columnType string
	values           []spelling
}{
	{"c", "varchar(200) NOT NULL", []spelling{
		{`"plain"`, "plain"},
		{`""`, ""},
		{`"a\/b <&>"`, "a/b <&>"},
		{`"\u00e9\ud83d\ude00"`, "é😀"},
		{`"é😀"`, "é😀"},
		{`"tab\t\n\"\\"`, "tab\t\n\"\\"},
		{`"NULL"`, "NULL"},
		{`"{1,2}"`, "{1,2}"},
		{"\"\u007f\"", "\u007f"},
		{`5`, "5"},
	}},
	{"i", "integer", []spelling{{`7`, "7"}, {`"7"`, "7"}, {`-0`, "0"}, {`2147483647`, "2147483647"}, {`null`, "null"}}},
	{"g", "bigint", []spelling{{`9223372036854775807`, "9223372036854775807"}, {`"-1"`, "-1"}, {`null`, "null"}}},
	{"f", "double precision", []spelling{
		{`1.5`, "1.5"}, {`"1.5"`, "1.5"}, {`1e+20`, "1e+20"}, {`1e-7`, "1e-07"}, {`0.1`, "0.1"}, {`1000.5`, "1000.5"}, {`NaN`, "null"}, {`Infinity`, "null"}, {`-Infinity`, "null"},
	}},
	{"n", "numeric(30,4)", []spelling{{`1.5`, "1.5000"}, {`"1.10"`, "1.1000"}, {`3.0`, "3.0000"}, {`1.2345678901234567e+19`, "12345678901234567000.0000"}, {`null`, "null"}}},
	{"b", "boolean", []spelling{{`true`, "1"}, {`false`, "0"}, {`1`, "1"}, {`0`, "0"}, {`null`, "null"}}},
	{"d", "date", []spelling{{`"2026-01-02"`, "2026-01-02 00:00:00.000000+00:00"}, {`null`, "null"}}},
	{"ts", "timestamptz", []spelling{
		{`"2026-01-02 03:04:05.123456+00:00"`, "2026-01-02 03:04:05.123456+00:00"},
		{`"2026-01-02 03:04:05+03:00"`, "2026-01-02 00:04:05.000000+00:00"},
		{`"2026-01-02T03:04:05.123456Z"`, "2026-01-02 03:04:05.123456+00:00"},
		{`"2026-01-02 03:04:05"`, "2026-01-02 03:04:05.000000+00:00"},
		{`"2026-01-02T03:04:05Z"`, "2026-01-02 03:04:05.000000+00:00"},
		{`"2026-01-02"`, "2026-01-02 00:00:00.000000+00:00"},
		{`null`, "null"},
	}},
	{"u", "uuid", []spelling{
		{`"12345678-1234-1234-1234-123456789abc"`, "12345678-1234-1234-1234-123456789abc"}, {`"12345678123412341234123456789abc"`, "12345678-1234-1234-1234-123456789abc"}, {`null`, "null"},
	}},
	{"j", "jsonb", []spelling{{`{"a":[1,2.5,null],"b":{"c":"\u00e9"}}`, `{"a":[1,2.5,null],"b":{"c":"é"}}`}, {`{}`, `{}`}, {`null`, "null"}}},
}

// djangoMaster sends the life of rows as django-cqrs does.
type djangoMaster struct {
	*rand.Rand
	clock    int
	rows     map[string]map[string]string // what a replica is to hold
	messages []*message.Message
}

// live sends a row's revisions, with a deletion and a new row of the key now and
// then. Its restarts are in order, as long as the broker's are.
func (m *djangoMaster) live(key int, events int) {
	revision := 0
	for range events {
		m.clock++
		version := []string{fmt.Sprintf(`"cqrs_revision":%d`, revision), fmt.Sprintf(`"cqrs_updated":"%s"`, at(m.clock).UTC().Format("2006-01-02 15:04:05.999999")+"+00:00")}
		id := []string{fmt.Sprint(key), fmt.Sprintf(`"%d"`, key)}[m.IntN(2)]
		if revision > 0 && m.IntN(6) == 0 {
			m.send("DELETE", id, append(version, `"id":`+id))
			delete(m.rows, fmt.Sprint(key))
			return
		}
		row := map[string]string{
			"id": fmt.Sprint(key), "cqrs_revision": fmt.Sprint(revision), "cqrs_updated": at(m.clock).UTC().Format("2006-01-02 15:04:05.000000") + "+00:00",
		}
		members := append(version, `"id":`+id, `"not_mapped":{"a":[1,"\ud800"]}`)
		for _, column := range djangoColumns {
			s := column.values[m.IntN(len(column.values))]
			members = append(members, fmt.Sprintf("%q:%s", column.name, s.wire))
			row[column.name] = s.stored
		}
		m.rows[fmt.Sprint(key)] = row
		m.send([]string{"SAVE", "SAVE", "SYNC"}[min(revision, m.IntN(3))], id, members)
		revision++
		if m.IntN(5) == 0 {
			revision++ // two saves in a transaction
		}
	}
}

// send writes a body in one of the forms that a peer's encoder may give it.
func (m *djangoMaster) send(signal, id string, members []string) {
	m.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
	outer := []string{
		`"signal_type":"` + signal + `"`, `"cqrs_id":"thing"`, `"instance_pk":` + id, `"previous_data":null`, `"correlation_id":null`,
		`"retries":0`, `"meta":{"x":NaN}`, `"later":"unknown"`,
		`"expires":` + []string{`null`, `"2099-11-23T21:12:07+00:00"`, `"2099-11-23 21:12:07.5Z"`}[m.IntN(3)],
	}
	comma, open := ",", ""
	if m.IntN(2) == 0 {
		comma, open = " ,\r\n\t", " "
		m.Shuffle(len(outer), func(i, j int) { outer[i], outer[j] = outer[j], outer[i] })
	}
	body := open + "{" + strings.Join(outer, comma) + comma + `"instance_data":` + open + "{" + strings.Join(members, comma) + "}}" + open
	if m.IntN(2) == 0 {
		body = escapeAll(body)
	}
	m.messages = append(m.messages, django(body))
}

// escapeAll writes what is not ASCII as ujson does.
func escapeAll(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r < 0x80 {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// TestDjangoSpellings: a master's rows arrive whole in whatever form, order and
// number its messages come.
func TestDjangoSpellings(t *testing.T) {
	t.Parallel()
	eachDialect(t, testDjangoSpellings)
}

func testDjangoSpellings(t *testing.T, d Dialect) {
	t.Helper()
	ddl := "CREATE TABLE thing_ref (id bigint PRIMARY KEY, cqrs_revision bigint NOT NULL, cqrs_updated timestamptz NOT NULL"
	for _, c := range djangoColumns {
		ddl += ", " + c.name + " " + c.columnType
	}
	r := newRig(t, d, map[string]Table{"thing": {Name: "thing_ref"}}, ddl+")")
	for seed := range uint64(30) {
		m := &djangoMaster{Rand: rand.New(rand.NewPCG(seed, 11)), rows: map[string]map[string]string{}}
		for key := range 12 {
			m.live(key+1, 1+m.IntN(8))
		}
		for range len(m.messages) / 4 {
			m.messages = append(m.messages, m.messages[m.IntN(len(m.messages))].Copy())
		}
		if seed%3 > 0 {
			inOrder := slices.Clone(m.messages)
			m.Shuffle(len(inOrder), func(i, j int) { inOrder[i], inOrder[j] = inOrder[j], inOrder[i] })
			m.messages = inOrder
		}
		m.messages = withoutOldSyncs(m.messages)
		mustExec(t, r.db, "DELETE FROM thing_ref")
		mustExec(t, r.db, "DELETE FROM replica_tombstones")
		r.cut(t, m.Rand, m.messages, []int{1, 7, 200}[seed%3])
		have := map[string]map[string]string{}
		for _, row := range r.goldenStored(t, "thing_ref") {
			have[row["id"]] = row
		}
		if d == SQLite { // keeps numbers, not their digits behind the point
			asNumbers(m.rows, "n")
			asNumbers(have, "n")
		}
		if diff := cmp.Diff(m.rows, have); diff != "" {
			t.Fatalf("seed %d (-want +have):\n%s", seed, diff)
		}
	}
}

// asNumbers writes the numbers of a column in one form.
func asNumbers(rows map[string]map[string]string, column string) {
	for _, row := range rows {
		if f, err := strconv.ParseFloat(row[column], 64); err == nil {
			row[column] = fmt.Sprint(f)
		}
	}
}

// withoutOldSyncs drops SYNCs that come behind a later revision of their key:
// those of django-cqrs lower it by design.
func withoutOldSyncs(messages []*message.Message) []*message.Message {
	newest := map[string]int64{}
	return slices.DeleteFunc(messages, func(m *message.Message) bool {
		var body struct {
			Signal string          `json:"signal_type"`
			Key    json.RawMessage `json:"instance_pk"`
			Data   struct {
				Revision int64 `json:"cqrs_revision"`
			} `json:"instance_data"`
		}
		if err := json.Unmarshal([]byte(strings.NewReplacer("-Infinity", "null", "Infinity", "null", "NaN", "null").Replace(string(m.Payload))), &body); err != nil {
			panic(err)
		}
		key := strings.Trim(string(body.Key), `"`)
		if body.Signal == "SYNC" && body.Data.Revision < newest[key] {
			return true
		}
		newest[key] = max(newest[key], body.Data.Revision)
		return false
	})
}
