package cli

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/cli/demo"
)

// A demo whose sides differ has failed, and says where, after its result.
func TestReportOfDifference(t *testing.T) {
	t.Parallel()
	for _, asJSON := range []bool{false, true} {
		var out bytes.Buffer
		cmd := &cobra.Command{}
		cmd.SetOut(&out)
		err := report(cmd, asJSON, demo.Result{Written: 3, Difference: "accounts: the master has |1|, the replica has not"})
		if err == nil || !strings.Contains(err.Error(), "accounts: the master has |1|, the replica has not") {
			t.Errorf("JSON %v: error %v", asJSON, err)
		}
		if strings.Contains(out.String(), "Every row") || asJSON != strings.Contains(out.String(), `"converged":false,"difference":"accounts`) {
			t.Errorf("JSON %v: %s", asJSON, out.String())
		}
	}
}
