package cli

import (
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/relay"
)

// makeCompletable lets shells complete what flags take: words, the declared entities and
// files; nothing for the others, where a shell would offer any file.
func makeCompletable(svc *service, root *cobra.Command) {
	policies := words(string(relay.Drop), string(relay.Retry), string(relay.Dead))
	anyFile := cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	values := map[string]cobra.CompletionFunc{
		flagConfig:          cobra.FixedCompletions([]cobra.Completion{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt),
		"input":             anyFile,
		"output":            anyFile,
		flagLogLevel:        words("debug", "info", "warn", "error"),
		flagLogFormat:       words("text", "json"),
		"dialect":           words(string(migrations.Postgres), string(migrations.MySQL), string(migrations.SQLite)),
		"unroutable":        policies,
		"unroutable-direct": policies,
		flagEntity:          svc.completeEntity,
		flagEntities:        svc.completeEntities,
	}
	for _, cmd := range root.Commands() {
		makeCompletable(svc, cmd)
	}
	if root.ValidArgsFunction == nil {
		root.ValidArgsFunction = cobra.NoFileCompletions
	}
	root.Flags().VisitAll(func(f *pflag.Flag) {
		hideQuotes(f)
		complete, known := values[f.Name]
		if !known {
			complete = cobra.NoFileCompletions
		}
		_ = root.RegisterFlagCompletionFunc(f.Name, complete) // whose only error is a second one
	})
}

func words(known ...cobra.Completion) cobra.CompletionFunc {
	return cobra.FixedCompletions(known, cobra.ShellCompDirectiveNoFileComp)
}

// completeEntity lists the entities that the file and the code declare, on either side.
func (s *service) completeEntity(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return s.declaredNames(cmd), cobra.ShellCompDirectiveNoFileComp
}

// completeEntities is completeEntity for several names with commas.
func (s *service) completeEntities(cmd *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	before := typed[:strings.LastIndexByte(typed, ',')+1]
	var lists []cobra.Completion
	for _, name := range s.declaredNames(cmd) {
		if !slices.Contains(strings.Split(before, ","), name) {
			lists = append(lists, before+name)
		}
	}
	return lists, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// declaredNames reads what it can: somebody who is typing is told of no faults.
func (s *service) declaredNames(cmd *cobra.Command) []string {
	path := os.Getenv(envConfig)
	if f := cmd.Flags().Lookup(flagConfig); f != nil && f.Changed {
		path = f.Value.String()
	}
	file, _ := readConfig(strings.TrimSpace(path))
	if file == nil {
		file = &configFile{}
	}
	names := slices.AppendSeq(slices.Collect(maps.Keys(file.Entities)), maps.Keys(file.Replicas))
	for _, e := range s.entities {
		names = append(names, e.ID)
	}
	if c, err := s.declareAlone(); err == nil {
		names = slices.AppendSeq(names, maps.Keys(c.Tables()))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// quoted is where a flag keeps its description with the back quotes around the name of
// its value, which pflag wants for the help and a completion would show.
const quoted = "lockstep_quoted_usage"

func hideQuotes(f *pflag.Flag) {
	if f.Annotations == nil {
		f.Annotations = make(map[string][]string)
	}
	f.Annotations[quoted] = []string{f.Usage}
	f.Usage = strings.ReplaceAll(f.Usage, "`", "")
}

// showUsage is cobra's own usage, with the names of the flags' values.
func showUsage(cmd *cobra.Command) error {
	swap := func(f *pflag.Flag) {
		if other := f.Annotations[quoted]; len(other) == 1 {
			f.Usage, other[0] = other[0], f.Usage
		}
	}
	cmd.Flags().VisitAll(swap)
	defer cmd.Flags().VisitAll(swap)
	return new(cobra.Command).UsageFunc()(cmd)
}
