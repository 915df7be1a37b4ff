package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/migrations"
)

func newMigrate() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Create and change Lockstep's own tables",
		Example: `  relay migrate up --database-url postgres://localhost/shop
  relay migrate table accounts     # the lines a master's or replica's table needs`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return seeHelp(cmd, errors.New("migrate what? use up, down, status, sql or table"))
		},
	}
	cmd.AddCommand(newMigrateUp(), newMigrateDown(), newMigrateStatus(), newMigrateSQL(), newMigrateTable())
	return cmd
}

func newMigrateUp() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use: "up", Short: "Apply all pending migrations",
		Example: `  relay migrate up --database-url postgres://localhost/shop`, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.withDatabase(cmd, createDatabase, func(db *database) error {
				applied, err := migrations.Up(cmd.Context(), db.DB, db.dialect)
				if err != nil {
					return err
				}
				return s.printDone(cmd, "applied", applied, "nothing to do: every migration is applied")
			})
		},
	}
	s.databaseFlag(cmd)
	s.jsonFlag(cmd)
	return cmd
}

func newMigrateDown() *cobra.Command {
	var s settings
	var yes bool
	cmd := &cobra.Command{
		Use: "down", Short: "Roll back the newest migration; what is in its tables is lost",
		Example: `  relay migrate down --database-url sqlite:///var/lib/shop.db`, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.withDatabase(cmd, openDatabase, func(db *database) error {
				if err := confirmDown(cmd, db, yes); err != nil {
					return err
				}
				rolledBack, err := migrations.Down(cmd.Context(), db.DB, db.dialect)
				if err != nil {
					return err
				}
				return s.printDone(cmd, "rolled back", rolledBack, "nothing to do: no migration is applied")
			})
		},
	}
	s.databaseFlag(cmd)
	s.jsonFlag(cmd)
	cmd.Flags().BoolVar(&yes, flagYes, false, "do not ask")
	return cmd
}

// printDone prints the migrations that something was done to, or that there was none.
func (s *settings) printDone(cmd *cobra.Command, done string, list []migrations.Applied, none string) error {
	if s.asJSON {
		return printJSON(cmd, list)
	}
	for _, m := range list {
		fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", done, m.Name)
	}
	if len(list) == 0 {
		fmt.Fprintln(cmd.OutOrStdout(), none)
	}
	return nil
}

// confirmDown asks before the newest migration is rolled back, and says what goes with it.
func confirmDown(cmd *cobra.Command, db *database, yes bool) error {
	if yes {
		return nil
	}
	list, err := migrations.Status(cmd.Context(), db.DB, db.dialect)
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(list) {
		if !m.At.IsZero() {
			return confirm(cmd, yes, fmt.Sprintf("Roll back %s: %s?", m.Name, lost(m.Version)), "nothing was rolled back")
		}
	}
	return nil // which Down says
}

// lost says what goes with a migration.
func lost(version int64) string {
	switch version {
	case 1:
		return "the outbox is dropped, and events in it that were not sent, or are dead, are lost"
	case 2:
		return "it is forgotten which rows were deleted and which events were handled: late events bring rows back, and handlers run again"
	case 3:
		return "indexes are dropped, and no data"
	}
	return "what is in its tables is lost"
}

func newMigrateStatus() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use: "status", Short: "List the migrations and when they were applied",
		Example: `  relay migrate status --database-url postgres://localhost/shop --json`, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.withDatabase(cmd, openDatabase, func(db *database) error {
				list, err := migrations.Status(cmd.Context(), db.DB, db.dialect)
				if err != nil {
					return err
				}
				if s.asJSON {
					return printJSON(cmd, list)
				}
				for _, m := range list {
					when := "pending"
					if !m.At.IsZero() {
						when = m.At.UTC().Format(time.DateTime)
					}
					fmt.Fprintf(cmd.OutOrStdout(), "%-24s %s\n", m.Name, when)
				}
				return nil
			})
		},
	}
	s.databaseFlag(cmd)
	s.jsonFlag(cmd)
	return cmd
}

func newMigrateSQL() *cobra.Command {
	var dialect string
	cmd := &cobra.Command{
		Use: "sql", Short: "Print the statements of all migrations, for your own migration tool",
		Example: `  relay migrate sql --dialect mysql > lockstep.sql`, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := migrations.SQL(dialectOf(dialect))
			if err != nil {
				return misusef("--dialect: %w", err)
			}
			fmt.Fprint(cmd.OutOrStdout(), text)
			return nil
		},
	}
	dialectFlag(cmd, &dialect)
	return cmd
}

func newMigrateTable() *cobra.Command {
	var dialect string
	cmd := &cobra.Command{
		Use:     "table NAME...",
		Short:   "Print the lines that tables of a master or a replica need",
		Example: `  relay migrate table accounts authors --dialect mysql`,
		Args:    tableNames,
		RunE: func(cmd *cobra.Command, tables []string) error {
			for _, table := range tables {
				text, err := migrations.TableSQL(dialectOf(dialect), table)
				if err != nil {
					return misusef("--dialect: %w", err)
				}
				fmt.Fprint(cmd.OutOrStdout(), text)
			}
			return nil
		},
	}
	dialectFlag(cmd, &dialect)
	return cmd
}

func tableNames(cmd *cobra.Command, names []string) error {
	switch {
	case len(names) == 0:
		return seeHelp(cmd, errors.New("which table? use `"+cmd.CommandPath()+" accounts`"))
	case slices.Contains(names, ""):
		return seeHelp(cmd, errors.New("a table's name is empty"))
	}
	return nil
}

// dialectOf takes MariaDB by its name, too.
func dialectOf(name string) migrations.Dialect {
	if name == "mariadb" {
		return migrations.MySQL
	}
	return migrations.Dialect(name)
}

func dialectFlag(cmd *cobra.Command, dialect *string) {
	cmd.Flags().StringVar(dialect, "dialect", string(migrations.Postgres), "`database` whose SQL is printed: postgres, mysql or sqlite")
}

// withDatabase opens the database of the settings for fn.
func (s *settings) withDatabase(cmd *cobra.Command, open func(context.Context, string) (*database, error), fn func(db *database) error) error {
	if err := s.fill(cmd, flagDatabase); err != nil {
		return err
	}
	db, err := open(cmd.Context(), s.databaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	return fn(db)
}

func printJSON(cmd *cobra.Command, v any) error {
	out := json.NewEncoder(cmd.OutOrStdout())
	out.SetEscapeHTML(false)
	if err := out.Encode(v); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}
