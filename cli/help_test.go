package cli_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lockstep-go/lockstep/cli"
)

// commands lists all commands below and with cmd.
func commands(cmd *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{cmd}
	for _, c := range cmd.Commands() {
		all = append(all, commands(c)...)
	}
	return all
}

// Each command explains itself, by --help and by help.
func TestHelp(t *testing.T) {
	t.Parallel()
	var paths []string
	for _, cmd := range commands(cli.New()) {
		path := strings.TrimSpace(strings.TrimPrefix(cmd.CommandPath(), "relay"))
		paths = append(paths, path)
		o := relay(t, append(args(path), "--help")...)
		o.expect(t, 0)
		if about, usage, ok := strings.Cut(o.out, "Usage:\n  "+cmd.CommandPath()); !ok || len(about) < 10 || usage == "" {
			t.Errorf("relay %s --help does not say what it is for, and how to use it:\n%s", path, o.out)
		}
		if o.stderr != "" {
			t.Errorf("relay %s --help wrote to stderr: %s", path, o.stderr)
		}
		if have := mustRelay(t, append([]string{"help"}, args(path)...)...); have != o.out {
			t.Errorf("relay help %s is not relay %s --help:\n%s", path, path, have)
		}
		if cmd.Short == "" || !strings.HasPrefix(cmd.Example, "  ") || !strings.Contains(cmd.Example, cmd.CommandPath()) {
			t.Errorf("relay %s has no example of itself, indented by two spaces", path)
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("relay %s: --%s says nothing of itself", path, f.Name)
			}
		})
		if cmd.HasSubCommands() {
			continue
		}
		for line := range strings.Lines(o.out) {
			if flag := regexp.MustCompile(`^ +(-\w, )?--\S+( \S+)?$`).FindString(strings.TrimRight(line, " \n")); flag != "" {
				t.Errorf("relay %s: flag without a description: %s", path, flag)
			}
		}
	}
	want := ",consume,dead-letters,dead-letters dump,dead-letters list,dead-letters purge,dead-letters retry,dead-letters show,deleted,deleted master,deleted replica,deleted sync,demo,diff,diff master,diff replica,diff sync,doctor,dump,failures,failures give-up,failures list,failures purge,failures retry,failures show,load,migrate,migrate down,migrate sql,migrate status,migrate table,migrate up,run,status,sync,trace,version"
	if have := strings.Join(paths, ","); have != want {
		t.Errorf("commands %s, want %s", have, want)
	}
	if have := mustRelay(t); have != mustRelay(t, "--help") {
		t.Errorf("relay without a command:\n%s", have)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if have := mustRelay(t, "completion", shell); !strings.Contains(have, "relay") {
			t.Errorf("completion for %s: %.200s", shell, have)
		}
	}
	for typed, want := range map[string]string{"dead-letters ": "purge\t", "dead-letters retry --old": "--older-than\t", "tr": "trace\t"} {
		if have := mustRelay(t, append([]string{"__complete"}, strings.Split(typed, " ")...)...); !strings.Contains(have, want) {
			t.Errorf("relay %s is completed by %q, want %q among it", typed, have, want)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	p := start(t, nil, "version")
	if code, _ := p.exit(patience); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if have := p.out.String(); !regexp.MustCompile(`^relay \S+ \(go1\.\d+\S*\)\n$`).MatchString(have) {
		t.Errorf("version: %q", have)
	}
	var v struct{ Version, Go string }
	if err := json.Unmarshal([]byte(mustRelay(t, "version", "--json")), &v); err != nil || v.Version == "" || v.Go == "" {
		t.Errorf("version --json: %+v, %v", v, err)
	}
}
