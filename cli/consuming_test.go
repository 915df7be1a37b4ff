package cli

import (
	"database/sql"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/consumer"
)

// TestFlagsOverFile: what neither says is the consumer's default, what the file
// says stands over that, and what was given as a flag over both.
func TestFlagsOverFile(t *testing.T) {
	t.Parallel()
	const content = `
queue: q
consume: {batch_size: 9, workers: 3, max_parked: 4, statement_timeout: 1s, transaction_timeout: 30s,
  dead_letter_ttl: 240h, tombstone_retention: 750h, entities: [b], ignore: [y]}
replicas: {a: {table: t, only_direct_syncs: true}, b: {table: u}}
`
	inFile := consumer.Config{
		BatchSize: 9, Workers: 3, MaxParked: 4, StatementTimeout: time.Second, TransactionTimeout: 30 * time.Second,
		DeadLetterTTL: 240 * time.Hour, TombstoneRetention: 750 * time.Hour, Entities: []string{"b"}, Ignore: []string{"y"},
	}
	given := consumer.Config{
		BatchSize: 7, Workers: 2, MaxParked: 5, StatementTimeout: 5 * time.Second, TransactionTimeout: 20 * time.Second,
		DeadLetterTTL: time.Hour, TombstoneRetention: 2000 * time.Hour, Entities: []string{"a", "b"}, Ignore: []string{"z"},
	}
	tests := map[string]struct {
		content string
		flags   []string
		want    consumer.Config
	}{
		"neither": {"queue: q\nreplicas: {a: {table: t}, b: {table: u}}", nil, consumer.Config{}},
		"file":    {content, nil, inFile},
		"both": {content, []string{
			"--batch-size=7", "--workers=2", "--max-parked=5", "--statement-timeout=5s", "--transaction-timeout=20s", "--dead-letter-ttl=1h", "--tombstone-retention=2000h",
			"--entities=a,b", "--ignore=z",
		}, given},
	}
	for name, test := range tests {
		path := filepath.Join(t.TempDir(), "lockstep.yaml")
		if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := readConfig(path)
		if err != nil {
			t.Fatal(err)
		}
		cmd, flags := &cobra.Command{}, consumer.Config{DrainTimeout: time.Second}
		consumeFlags(cmd, &flags)
		if err := cmd.ParseFlags(test.flags); err != nil {
			t.Fatal(err)
		}
		inFile, err := file.consuming()
		if err != nil {
			t.Fatal(err)
		}
		have := overFile(cmd, flags, inFile)
		test.want.DrainTimeout = time.Second
		if diff := cmp.Diff(test.want, have); diff != "" {
			t.Errorf("%s (-want +have):\n%s", name, diff)
		}
		if name == "neither" {
			continue
		}
		for _, all := range []bool{false, true} {
			file.onlyDirectSyncs = all
			have.Queue, have.Dialect = "q", consumer.Postgres
			c, err := consumer.New(new(sql.DB), noBroker{}, have)
			if err != nil {
				t.Fatal(err)
			}
			if err := file.addReplicas(c); err != nil {
				t.Fatal(err)
			}
			if tables := c.Tables(); !tables["a"].OnlyDirectSyncs || tables["b"].OnlyDirectSyncs != all {
				t.Errorf("%s, all %t: only direct SYNCs for a %t, b %t", name, all, tables["a"].OnlyDirectSyncs, tables["b"].OnlyDirectSyncs)
			}
		}
	}
}
