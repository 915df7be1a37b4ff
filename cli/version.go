package cli

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersion() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version",
		Example: `  relay version --json`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := buildVersion()
			if s.asJSON {
				return printJSON(cmd, v)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "relay %s (%s)\n", v.Version, v.Go)
			return nil
		},
	}
	s.jsonFlag(cmd)
	return cmd
}

type version struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Go       string `json:"go"`
}

// buildVersion is what the Go toolchain wrote into the binary.
func buildVersion() version {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version{Version: "unknown", Go: runtime.Version()}
	}
	v := version{Version: cmp.Or(info.Main.Version, "unknown"), Go: info.GoVersion}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			v.Revision = s.Value
		}
	}
	return v
}
