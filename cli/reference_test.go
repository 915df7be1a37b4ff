package cli

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// rowsOf returns the cells of a page's table that begins with the header.
func rowsOf(t *testing.T, page, header string) (rows [][]string) {
	t.Helper()
	_, table, found := strings.Cut(page, "\n"+header+"\n")
	if !found {
		t.Fatalf("docs/configuration.md has no table that begins with %s", header)
	}
	_, table, _ = strings.Cut(table, "\n") // the line under the header
	for line := range strings.Lines(table) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			break
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(line, "|"), " | ") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		rows = append(rows, cells)
	}
	return rows
}

func configuration(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The reference of configuration.md has all flags of run and consume, with their
// defaults, and no others.
func TestReferenceOfFlags(t *testing.T) {
	t.Parallel()
	want := map[string][]string{} // commands by flag and default
	for _, cmd := range New().Commands() {
		if cmd.Name() != "run" && cmd.Name() != "consume" {
			continue
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			value := f.DefValue
			if slices.Contains([]string{"", "0", "0s", "false", "[]"}, value) {
				value = "–"
			}
			key := "`--" + f.Name + "` " + value
			want[key] = append(want[key], cmd.Name())
		})
	}
	have := map[string][]string{}
	for _, row := range rowsOf(t, configuration(t), "| flag | of `relay …` | default | meaning |") {
		if len(row) != 4 || row[3] == "" {
			t.Errorf("row %q: want four cells", row)
			continue
		}
		have[row[0]+" "+strings.Trim(row[2], "`")] = strings.Split(row[1], ", ")
	}
	for _, commands := range []map[string][]string{want, have} {
		for _, list := range commands {
			slices.Sort(list)
		}
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("flags (-code +docs/configuration.md):\n%s", diff)
	}
}

// keys lists the keys of a part of lockstep.yaml.
func keys(of reflect.Type, prefix string) (names []string) {
	for field := range of.Fields() {
		tag, ok := field.Tag.Lookup("yaml")
		switch {
		case !ok:
		case field.Type.Kind() == reflect.Map && field.Type.Elem().Kind() == reflect.Struct:
			names = append(names, keys(field.Type.Elem(), tag+".ID.")...)
		case field.Type.Kind() == reflect.Struct:
			names = append(names, keys(field.Type, tag+".")...)
		default:
			names = append(names, prefix+tag)
		}
	}
	return names
}

// The reference of configuration.md has all keys of lockstep.yaml, and no others.
func TestReferenceOfKeys(t *testing.T) {
	t.Parallel()
	var have []string
	for _, row := range rowsOf(t, configuration(t), "| key | default | meaning |") {
		if len(row) != 3 || row[2] == "" {
			t.Errorf("row %q: want three cells", row)
		}
		have = append(have, strings.Trim(row[0], "`"))
	}
	want := keys(reflect.TypeFor[configFile](), "")
	slices.Sort(want)
	slices.Sort(have)
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("keys (-code +docs/configuration.md):\n%s", diff)
	}
}

// Every lockstep.yaml that a page shows can be used.
func TestFilesOfTheDocumentation(t *testing.T) {
	t.Parallel()
	shown := map[string]int{}
	for _, page := range []string{"../README.md", "../docs/configuration.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for n, m := range regexp.MustCompile("(?s)```yaml\n(# lockstep.yaml.*?)```").FindAllStringSubmatch(string(text), -1) {
			shown[page]++
			path := fmt.Sprintf("%s/%d.yaml", t.TempDir(), n)
			if err := os.WriteFile(path, []byte(m[1]), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := readConfig(path); err != nil {
				t.Errorf("%s: %v\n%s", page, err, m[1])
			}
			var all map[string]any
			if err := yaml.Unmarshal([]byte(m[1]), &all); err != nil || len(all) == 0 {
				t.Errorf("%s: %v, %v", page, all, err)
			}
		}
	}
	if have := slices.Sorted(maps.Keys(shown)); len(have) != 2 {
		t.Errorf("only %v show a lockstep.yaml", have)
	}
}
