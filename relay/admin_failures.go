package relay

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Failure is a message that the broker refused and that is tried again. Later
// messages of its key wait for it.
type Failure struct {
	ID         int64 // of the row in outbox
	Topic, Key string
	Metadata   []byte // a JSON object
	Attempts   int
	Error      string // of the last attempt
	// Created is when it was put into the outbox, RetryAt when it is tried next, both
	// by the database's clock.
	Created, RetryAt time.Time
}

// Failures lists at most limit messages with an id above after, in id order. Start
// with after 0 and go on with the last id. Their bodies are not read; see
// [Admin.Payload].
func (a *Admin) Failures(ctx context.Context, after int64, limit int) ([]Failure, error) {
	return list(ctx, a.store, "list failures", a.store.sql.Failures, after, limit, func(scan func(...any) error) (f Failure, err error) {
		var created, at int64
		err = scan(&f.ID, &f.Topic, &f.Key, &f.Metadata, &f.Attempts, &f.Error, &created, &at)
		f.Created, f.RetryAt = time.UnixMilli(created), time.UnixMilli(at)
		return f, err
	})
}

// ErrGone reports that a message is not in the outbox any more.
var ErrGone = errors.New("it is not in the outbox any more")

// Payload returns the body of a message in the outbox, failing or not, or [ErrGone].
func (a *Admin) Payload(ctx context.Context, id int64) ([]byte, error) {
	rows, err := bounded(ctx, callTimeout, func(ctx context.Context) ([]row, error) {
		result, err := a.store.query(a.store.db).QueryContext(ctx, a.store.sql.FetchIDs, a.store.dialect.IDs([]int64{id}), 1)
		return scanRows(result, err, 1, "read it")
	})
	if err == nil && len(rows) == 0 {
		err = ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("relay: message %d: %w", id, err)
	}
	return rows[0].payload, nil
}

// RetryFailures makes failing messages due at once, with no attempt spent, and
// returns how many there were. A relay that runs notices within seconds.
func (a *Admin) RetryFailures(ctx context.Context, ids ...int64) (int64, error) {
	return a.change(ctx, "retry failures", ids, 0, a.store.sql.Hasten)
}

// GiveUpFailures moves failing messages to the dead letters, as the relay does after
// Config.MaxAttempts, and returns how many there were. Their keys go on: a relay that
// runs notices within seconds. Nothing is lost: [Admin.RetryDead] puts them back. An id
// that is not failing is left alone.
func (a *Admin) GiveUpFailures(ctx context.Context, ids ...int64) (int64, error) {
	sql := a.store.sql
	if sql.GiveUpDeletes {
		return a.change(ctx, "give up failures", ids, 0, sql.GiveUp, sql.Mend)
	}
	return a.change(ctx, "give up failures", ids, 1, sql.GiveUp, sql.DeleteFailing, sql.Mend)
}

// PurgeFailures deletes failing messages from the outbox for good, which lets
// their keys go on as [Admin.GiveUpFailures] does, and returns how many there were.
// The events are lost: replicas get the state of the key with its next event, or by
// a SYNC. Nothing else is deleted: an id that is not failing is left alone.
func (a *Admin) PurgeFailures(ctx context.Context, ids ...int64) (int64, error) {
	return a.change(ctx, "purge failures", ids, 0, a.store.sql.DeleteFailing, a.store.sql.Mend)
}
