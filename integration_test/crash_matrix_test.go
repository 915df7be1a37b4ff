package integration_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every line of docs/crash-matrix.md names a test that proves it, and the test
// exists.
func TestCrashMatrixNamesItsTests(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/crash-matrix.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z_/]+)\\.(Test\\w+)`")
	tests := map[string]string{} // the text of a package's tests
	rows := 0
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasSuffix(line, "| test |\n") {
			continue
		}
		rows++
		names := named.FindAllStringSubmatch(line, -1)
		if len(names) == 0 {
			t.Errorf("no test is named in %s", line)
		}
		for _, name := range names {
			folder, test := name[1], name[2]
			if tests[folder] == "" {
				tests[folder] = sources(t, folder)
			}
			if !strings.Contains(tests[folder], "\nfunc "+test+"(t *testing.T)") {
				t.Errorf("%s has no %s, which is named in %s", folder, test, line)
			}
		}
	}
	if rows < 50 {
		t.Errorf("%d rows were found in the tables, want more: has their form changed?", rows)
	}
}

func sources(t *testing.T, folder string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", folder, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in %s (%v)", folder, err)
	}
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
