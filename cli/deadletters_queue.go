package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/broker"
	"github.com/lockstep-go/lockstep/event"
)

// queueLetters are those of a replica, in the broker's dead_letter_<queue>.
type queueLetters struct {
	broker   broker.Broker
	box      broker.Letterbox
	queue    string                   // whose dead letters they are
	lives    map[string]time.Duration // of the entities' events, where they are declared
	progress func(total int64) *progress
}

// withQueue connects to the broker for fn.
func (l *letters) withQueue(cmd *cobra.Command, fn func(store letterStore) error) error {
	file, err := l.readConfig()
	if err != nil {
		return err
	}
	queue := file.queueOf(l.queue)
	if queue == "" {
		return misusef("--%s is missing: name the replica's queue, there or in the file, or give --outbox for the relay's own dead letters", flagQueue)
	}
	if err := event.ValidateName("the name", queue); err != nil {
		return misusef("--%s: %w", flagQueue, err)
	}
	lives, err := file.lives()
	if err != nil {
		return err
	}
	b, box, err := l.openLetterbox(cmd.Context(), broker.Options{Logger: l.logger(cmd)})
	if err != nil {
		return err
	}
	defer func() { _ = b.Close() }()
	err = fn(queueLetters{b, box, queue, lives, l.progress(cmd)})
	if isNoQueue(err) {
		return fmt.Errorf("%w: no replica has consumed queue %s yet, or it is called otherwise", err, queue)
	}
	return err
}

// isNoQueue reports whether the broker says that there is no such queue.
func isNoQueue(err error) bool {
	var none interface {
		error
		NoQueue() bool
	}
	return errors.As(err, &none) && none.NoQueue()
}

// lives returns how long the entities' events live, where it is declared.
func (f *configFile) lives() (map[string]time.Duration, error) {
	lives := make(map[string]time.Duration)
	for _, e := range f.declared() {
		lives[e.ID] = e.TTL
	}
	for id, e := range f.Entities {
		ttl, err := e.TTL.read()
		if err != nil {
			return nil, misusef("%s: entities: %s: ttl %w", f.path, id, err)
		}
		lives[id] = ttl
	}
	return lives, nil
}

func (q queueLetters) each(ctx context.Context, fn func(letter) error) error {
	return q.box.Browse(ctx, event.DeadLetterQueue(q.queue), func(msg *message.Message) (bool, error) {
		d, _, _ := readLetter(msg)
		return false, fn(d)
	})
}

// queueLetterJSON is a letter as it is printed in JSON.
type queueLetterJSON struct {
	ID       string            `json:"id"`
	Entity   string            `json:"cqrs_id"`
	Signal   event.Signal      `json:"signal_type"`
	Key      string            `json:"key"`
	Retries  int               `json:"retries"`
	Reason   string            `json:"reason"`
	Error    string            `json:"error"`
	Died     *time.Time        `json:"died"`
	Metadata map[string]string `json:"metadata"`
	Payload  string            `json:"payload,omitempty"`
}

// readLetter reads a message as a dead letter. err says why its body is no event.
func readLetter(msg *message.Message) (letter, event.Event, error) {
	ev, err := event.Decode(msg.Payload)
	sum := sha256.Sum256(msg.Payload)
	shown := queueLetterJSON{
		// django-cqrs gives its messages no id: this one is the same at each look.
		ID: hex.EncodeToString(sum[:6]), Entity: ev.CQRSID, Signal: ev.Signal, Key: textOf(ev.Key), Retries: ev.Retries,
		Reason: msg.Metadata.Get(event.HeaderReason), Error: msg.Metadata.Get(event.HeaderError), Metadata: msg.Metadata,
	}
	if topic := msg.Metadata.Get(event.MetadataTopic); shown.Entity == "" && topic != "" {
		shown.Entity = event.EntityOf(topic)
	}
	d := letter{id: shown.ID, entity: shown.Entity, key: shown.Key, reason: shown.Reason + ": " + shown.Error, body: msg.Payload}
	when := "-                  "
	if died, _, err := event.ParseTime(msg.Metadata.Get(event.HeaderFailedAt)); err == nil {
		d.since, shown.Died = died, &died
		when = died.UTC().Format(time.DateTime)
	}
	if shown.Reason == "" {
		d.reason = ""
	}
	d.line = strings.TrimRight(fmt.Sprintf("%s %s  %s/%s  %d %s  %s", d.id, when, d.entity, d.key, shown.Retries, plural(shown.Retries, "retry", "retries"), firstLine(d.reason)), " ")
	d.shown = func(whole bool) any {
		if whole {
			shown.Payload = string(msg.Payload)
		}
		return shown
	}
	return d, ev, err
}

// textOf is a key as text.
func textOf(raw []byte) string {
	if text, ok := event.Text(raw); ok {
		return text
	}
	return string(raw)
}

// browse looks at all letters and shows how far it has come.
func (q queueLetters) browse(ctx context.Context, visit func(msg *message.Message) (bool, error)) error {
	queue := event.DeadLetterQueue(q.queue)
	total, _, err := q.box.Inspect(ctx, queue)
	if err != nil {
		return err
	}
	p := q.progress(int64(total))
	defer p.end()
	var looked int64
	return q.box.Browse(ctx, queue, func(msg *message.Message) (bool, error) {
		take, err := visit(msg)
		looked++
		p.report(looked)
		return take, err
	})
}

func (q queueLetters) retry(ctx context.Context, selects func(letter) bool) (done int64, stay []error, err error) {
	err = q.browse(ctx, func(msg *message.Message) (bool, error) {
		d, ev, err := readLetter(msg)
		if !selects(d) {
			return false, nil
		}
		if err == nil {
			err = q.broker.Publish(event.DirectTopic(q.queue, ev.CQRSID), q.again(msg, ev))
		} else {
			err = &unfitError{err}
		}
		switch {
		case isRefused(err):
			stay = append(stay, fmt.Errorf("%s %s/%s: %w", d.id, d.entity, d.key, err))
			return false, nil
		case err != nil:
			return false, err
		}
		done++
		return true, nil
	})
	return done, stay, err
}

// unfitError says that a letter can never be sent as an event.
type unfitError struct{ error }

// Permanent is true.
func (*unfitError) Permanent() bool { return true }

// isRefused reports whether an error is about the message alone.
func isRefused(err error) bool {
	var refused interface {
		error
		Permanent() bool
	}
	return errors.As(err, &refused)
}

// again makes the message that a letter is sent as.
func (q queueLetters) again(msg *message.Message, ev event.Event) *message.Message {
	life := q.lives[ev.CQRSID]
	if life == 0 {
		life = ev.Life(born(msg, &ev))
	}
	ev.Renew(time.Now(), life)
	c := message.NewMessage(msg.UUID, ev.AppendJSON(nil))
	c.Metadata = maps.Clone(msg.Metadata)
	for _, name := range []string{event.MetadataTTL, event.MetadataTopic, event.HeaderReason, event.HeaderError, event.HeaderFailedAt} {
		delete(c.Metadata, name)
	}
	return c
}

// born tells when an event was made: its id says so, or the time of the change
// itself, which a SYNC does not send. It is zero where neither is known.
func born(msg *message.Message, ev *event.Event) time.Time {
	if id, err := uuid.Parse(msg.Metadata.Get(event.HeaderEventID)); err == nil && id.Version() == 7 {
		return time.Unix(id.Time().UnixTime())
	}
	if v, err := ev.Version(); err == nil && ev.Signal != event.Sync {
		return v.Updated
	}
	return time.Time{}
}

func (q queueLetters) purge(ctx context.Context, selects func(letter) bool) (done int64, err error) {
	err = q.browse(ctx, func(msg *message.Message) (bool, error) {
		d, _, _ := readLetter(msg)
		if !selects(d) {
			return false, nil
		}
		done++
		return true, nil
	})
	return done, err
}
