package cli_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/cli"
	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/outbox"
)

// What code declares is not declared in the file, too.
func TestDeclaredInCodeAndInTheFile(t *testing.T) {
	t.Parallel()
	config := writeFile(t, "lockstep.yaml", "entities:\n  account: {table: accounts}\n")
	url := "sqlite://" + t.TempDir() + "/shop.db"
	mustRelay(t, "migrate", "up", "--database-url", url)
	var out bytes.Buffer
	code := cli.Main(t.Context(), []string{"dump", "--cqrs-id", "account", "--config", config, "--database-url", url},
		&out, &out, cli.WithEntities(outbox.Entity{ID: "account", Table: "accounts"}))
	if have := out.String(); code != 2 || !strings.Contains(have, config+": entities: account is declared by the service's code: take it out of the file") {
		t.Errorf("exit code %d: %s", code, have)
	}
}

// Nor is a replica, whether the code has a table or a handler for it.
func TestReplicaDeclaredInCodeAndInTheFile(t *testing.T) {
	t.Parallel()
	config := writeFile(t, "lockstep.yaml", "replicas:\n  account: {table: account_ref}\n  author: {table: authors}\n  book: {table: books}\n")
	code := cli.WithReplicas("billing", func(c *consumer.Consumer) error {
		return errors.Join(
			consumer.HandleNoDB(c, "account", func(context.Context, consumer.Event[map[string]any]) error { return nil }),
			c.Table("author", consumer.Table{Name: "authors"}))
	})
	url := "sqlite://" + t.TempDir() + "/billing.db"
	mustRelay(t, "migrate", "up", "--database-url", url)
	var out bytes.Buffer
	exit := cli.Main(t.Context(), []string{
		"consume", "--config", config, "--database-url", url, "--broker-url", "jetstream+embedded://" + t.TempDir(),
	}, &out, &out, code)
	have := out.String()
	for _, id := range []string{"account", "author"} {
		if want := config + ": replicas: " + id + " is declared by the service's code: take it out of the file"; exit != 2 || !strings.Contains(have, want) {
			t.Errorf("exit code %d, the output lacks %q: %s", exit, want, have)
		}
	}
	if strings.Contains(have, "registered already") || strings.Contains(have, "replicas: book") {
		t.Errorf("more is faulted than what is declared twice: %s", have)
	}
}

// The commands work in a service's own binary, with what its code declares.
func TestMounted(t *testing.T) {
	t.Parallel()
	s := newSides(t, 4)
	commands := func() *cobra.Command {
		return cli.New(
			cli.WithEntities(outbox.Entity{ID: "account", Table: "accounts", Fields: []string{"id", "name"}}),
			cli.WithReplicas("billing", func(c *consumer.Consumer) error {
				return c.Table("account", consumer.Table{Name: "account_ref", Columns: map[string]string{"id": "id", "name": "title"}})
			}),
		)
	}
	mounted := func(stdin string, args ...string) string {
		root := &cobra.Command{Use: "shop"}
		root.AddCommand(commands())
		var out bytes.Buffer
		root.SetIn(strings.NewReader(stdin))
		root.SetOut(&out)
		root.SetErr(&out)
		root.SetArgs(append([]string{"relay"}, args...))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := root.ExecuteContext(ctx); err != nil {
			t.Fatalf("shop relay %s: %v", strings.Join(args, " "), err)
		}
		return out.String()
	}
	dump := mounted("", "dump", "--cqrs-id", "account", "-o", "-", "--quiet", "--database-url", s.masterURL)
	if have := mounted(dump, "load", "-i", "-", "--database-url", s.replicaURL); have != "account: 4 rows loaded, 0 skipped, 0 failed\n" {
		t.Errorf("load: %s", have)
	}
	s.exec(s.replica, `DELETE FROM account_ref WHERE id = 3`)
	one := mounted("", "diff", "master", "--cqrs-id", "account", "--database-url", s.masterURL)
	two := mounted(one, "diff", "replica", "--quiet", "--database-url", s.replicaURL)
	if !strings.HasSuffix(two, ",billing\n[3]\n") {
		t.Errorf("diff replica: %s", two)
	}
	if have := mounted(two, "diff", "sync", "--quiet", "--database-url", s.masterURL); have != "1 of 1 row synced\n" {
		t.Errorf("diff sync: %s", have)
	}
}
