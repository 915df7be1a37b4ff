package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/lib/pq"

	"github.com/lockstep-go/lockstep/broker/rabbitmq"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/relay"
)

// collapseKeys is how many entities a backlog that collapses is of.
const collapseKeys = 100

var relayCollapse = row{
	name: "relay-collapse", target: 3,
	what: "a backlog of 100 entities emptied with Config.Collapse, in events a second; against the same relay without",
	run: func(ctx context.Context, messages int) (float64, float64, error) {
		r, err := newRig(ctx)
		if err != nil {
			return 0, 0, err
		}
		defer r.close()
		return byTurns(
			func() (float64, error) { return backlogRate(ctx, r, messages, true) },
			func() (float64, error) { return backlogRate(ctx, r, messages, false) },
		)
	},
}

// fillEvents puts n events of collapseKeys entities into the outbox.
func (r *rig) fillEvents(ctx context.Context, n int) error {
	note := strings.Repeat("x", payloadBytes/2)
	bodies, keys, ids := make([]string, n), make([]string, n), make([]string, n)
	for i := range n {
		key, revision := i%collapseKeys, 1+i/collapseKeys
		e := event.Event{Signal: event.Save, CQRSID: "account", Key: fmt.Appendf(nil, "%d", key), Data: fmt.Appendf(json.RawMessage{},
			`{"id":%d,"note":"%s","cqrs_revision":%d,"cqrs_updated":"%s"}`, key, note, revision, event.FormatTime(time.Now()))}
		bodies[i], keys[i], ids[i] = string(e.AppendJSON(nil)), fmt.Sprint(key), uuid.NewString()
	}
	_, err := r.db.ExecContext(ctx, `INSERT INTO outbox (topic, key, payload, metadata)
		SELECT 'account', k, convert_to(b, 'UTF8'), jsonb_build_object('lockstep-event-id', id)
		FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS e (b, k, id, n) ORDER BY n`,
		pq.Array(bodies), pq.Array(keys), pq.Array(ids))
	return err
}

func backlogRate(ctx context.Context, r *rig, n int, collapse bool) (float64, error) {
	if err := r.fillEvents(ctx, n); err != nil {
		return 0, err
	}
	broker, err := rabbitmq.Open(ctx, r.amqpURL, rabbitmq.Config{Exchange: r.exchange})
	if err != nil {
		return 0, err
	}
	defer func() { _ = broker.Close() }()
	took, err := empty(ctx, r.db, broker, n, relay.Config{Collapse: collapse})
	if err != nil {
		return 0, err
	}
	_, err = r.channel.QueuePurge(r.queue, false)
	return perSecond(n, took), err
}
