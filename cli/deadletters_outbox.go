package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/relay"
)

// outboxLetters are those of a relay, in the table outbox_dead.
type outboxLetters struct {
	admin    *relay.Admin
	progress func(total int64) *progress
}

func (l *letters) withOutbox(cmd *cobra.Command, fn func(box letterbox) error) error {
	db, err := openDatabase(cmd.Context(), l.databaseURL)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	a, err := relay.NewAdmin(db.DB, db.dialect)
	if err != nil {
		return err
	}
	return fn(outboxLetters{a, l.progress(cmd)})
}

// checkID refuses what cannot be the id of a letter in the table.
func (l *letters) checkID(id string) error {
	if _, err := strconv.ParseInt(id, 10, 64); l.outbox && err != nil {
		return misusef("%q is not an id: use a number that `dead-letters list` prints", hideURLs(id))
	}
	return nil
}

// lettersPage is how many letters are read or changed at once.
const lettersPage = 200

func (o outboxLetters) each(ctx context.Context, fn func(letter) error) error {
	for after := int64(0); ; {
		page, err := o.admin.DeadLetters(ctx, after, lettersPage)
		if err != nil || len(page) == 0 {
			return err
		}
		after = page[len(page)-1].ID
		for _, d := range page {
			if err := fn(outboxLetter(d)); err != nil {
				return err
			}
		}
	}
}

// outboxLetterJSON is a letter as it is printed in JSON.
type outboxLetterJSON struct {
	ID       int64           `json:"id"`
	Topic    string          `json:"topic"`
	Entity   string          `json:"cqrs_id"`
	Key      string          `json:"key"`
	Attempts int             `json:"attempts"`
	Error    string          `json:"error"`
	Created  time.Time       `json:"created"`
	Died     time.Time       `json:"died"`
	Metadata json.RawMessage `json:"metadata"`
	Payload  string          `json:"payload,omitempty"`
}

func outboxLetter(d relay.DeadLetter) letter {
	entity := event.EntityOf(d.Topic)
	return letter{
		id: strconv.FormatInt(d.ID, 10), entity: entity, key: d.Key, reason: d.Error, died: d.Died, body: d.Payload,
		line: fmt.Sprintf("%-8d %s  %s/%s  %d attempts  %s", d.ID, d.Died.UTC().Format(time.DateTime),
			entity, d.Key, d.Attempts, strings.ReplaceAll(d.Error, "\n", " ")),
		shown: func(whole bool) any {
			shown := outboxLetterJSON{d.ID, d.Topic, entity, d.Key, d.Attempts, d.Error, d.Created.UTC(), d.Died.UTC(), d.Metadata, ""}
			if whole {
				shown.Payload = string(d.Payload)
			}
			return shown
		},
	}
}

func (o outboxLetters) retry(ctx context.Context, selects func(letter) bool) (int64, []error, error) {
	done, err := o.change(ctx, selects, o.admin.RetryDead)
	return done, nil, err
}

func (o outboxLetters) purge(ctx context.Context, selects func(letter) bool) (int64, error) {
	return o.change(ctx, selects, o.admin.PurgeDead)
}

// change does something to the letters that are there now: the ids are collected
// first, so that a letter which dies again meanwhile is not met twice.
func (o outboxLetters) change(
	ctx context.Context, selects func(letter) bool, do func(ctx context.Context, ids ...int64) (int64, error),
) (changed int64, err error) {
	var ids []int64
	err = o.each(ctx, func(d letter) error {
		if selects(d) {
			id, err := strconv.ParseInt(d.id, 10, 64)
			ids = append(ids, id)
			return err
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	p := o.progress(int64(len(ids)))
	defer p.end()
	for start := 0; start < len(ids); start += lettersPage {
		n, err := do(ctx, ids[start:min(start+lettersPage, len(ids))]...)
		changed += n
		if err != nil {
			return changed, err
		}
		p.report(changed)
	}
	return changed, nil
}
