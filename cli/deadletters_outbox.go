package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/relay"
)

// outboxLetters are those of a relay, in the table outbox_dead.
type outboxLetters struct {
	outboxTable
	admin *relay.Admin
}

func (l *letters) withOutbox(cmd *cobra.Command, fn func(store letterStore) error) error {
	return l.withAdmin(cmd, func(a *relay.Admin) error {
		return fn(outboxLetters{outboxTable{deadOf(a), l.progress(cmd)}, a})
	})
}

// withAdmin opens the master's database for fn.
func (s *settings) withAdmin(cmd *cobra.Command, fn func(a *relay.Admin) error) error {
	db, err := openDatabase(cmd.Context(), s.databaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	a, err := relay.NewAdmin(db.DB, db.dialect)
	if err != nil {
		return err
	}
	err = fn(a)
	if dialect.IsMissingTable(err) {
		return fmt.Errorf("%w: is this the master's database, and was `relay migrate up` run?", inDatabase(s.databaseURL, "", err))
	}
	return err
}

// checkIDs refuses what cannot be the id of a letter in the table.
func (l *letters) checkIDs() error {
	if !l.outbox {
		return nil
	}
	return l.checkNumbers("dead-letters list")
}

// deadOf lists the dead letters.
func deadOf(a *relay.Admin) page {
	return func(ctx context.Context, after int64) ([]letter, error) {
		return lettersOf(outboxLetter)(a.DeadLetters(ctx, after, lettersPage))
	}
}

func outboxLetter(d relay.DeadLetter) letter {
	entity := event.EntityOf(d.Topic)
	return letter{
		id: strconv.FormatInt(d.ID, 10), topic: d.Topic, entity: entity, key: d.Key, reason: d.Error, since: d.Died, body: d.Payload,
		line: fmt.Sprintf("%-8d %s  %s/%s  %s  %s", d.ID, d.Died.UTC().Format(time.DateTime),
			entity, d.Key, howMany(d.Attempts, "attempt"), firstLine(d.Error)),
		shown: func(whole bool) any {
			died := d.Died.UTC()
			shown := outboxMessageJSON{
				ID: d.ID, Topic: d.Topic, Entity: entity, Key: d.Key, Attempts: d.Attempts, Error: d.Error,
				Created: d.Created.UTC(), Died: &died, Metadata: d.Metadata,
			}
			if whole {
				shown.Payload = string(d.Payload)
			}
			return shown
		},
	}
}

func (o outboxLetters) retry(ctx context.Context, selects func(letter) bool) (int64, []error, error) {
	done, err := o.changeSelected(ctx, selects, o.admin.RetryDead)
	return done, nil, err
}

func (o outboxLetters) purge(ctx context.Context, selects func(letter) bool) (int64, error) {
	return o.changeSelected(ctx, selects, o.admin.PurgeDead)
}
