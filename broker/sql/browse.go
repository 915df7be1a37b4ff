package sql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/lib/pq"
)

// browsePage is how many messages are held and read at a time.
const browsePage = 50

// Inspect returns how many messages the queue holds, those in consumers' hands included and delayed ones
// not, and how many subscriptions it has in all processes. It changes nothing and blocks for
// ConfirmTimeout at most.
func (b *Broker) Inspect(ctx context.Context, queue string) (messages, consumers int, err error) {
	err = b.lookAt(ctx, queue, b.sql.inspect, &messages, &consumers)
	return messages, consumers, err
}

// lookAt reads a row about a queue.
func (b *Broker) lookAt(ctx context.Context, queue, query string, into ...any) error {
	if b.isClosing() {
		return ErrClosed
	}
	err := b.row(ctx, query, []any{queue}, into...)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return &NoQueueError{queue}
	case err != nil:
		return outage(fmt.Sprintf("look at queue %q", queue), err)
	}
	return nil
}

// Browse calls visit for each message that waits in the queue when it begins, in the queue's order, and
// takes those out for which visit returns true and nil. It holds 50 at a time, as a consumer would, so one
// that consumes the queue meanwhile may get those further behind. The others are given back at the end,
// or when the lease is over if this process dies; their places they keep. It blocks as long as visit does.
func (b *Broker) Browse(ctx context.Context, queue string, visit func(msg *message.Message) (bool, error)) (err error) {
	var newest, last int64
	if err := b.lookAt(ctx, queue, b.sql.newest, &newest); err != nil {
		return err
	}
	holder, err := b.enter(ctx, "")
	if err != nil {
		return err
	}
	defer b.leave(context.WithoutCancel(ctx), holder)
	for {
		page, err := b.page(ctx, queue, last, newest, holder)
		if err != nil {
			return outage(fmt.Sprintf("look into queue %q", queue), err)
		}
		if len(page) == 0 {
			return nil
		}
		last = page[len(page)-1].offset
		if err := b.visit(ctx, page, visit); err != nil {
			return err
		}
	}
}

// page holds the next messages.
func (b *Broker) page(ctx context.Context, queue string, after, upTo, holder int64) (page []entry, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	defer func() { err = because(ctx, err) }()
	rows, err := b.db.QueryContext(ctx, b.sql.browse, queue, after, upTo, browsePage, holder)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var e entry
		if err := e.scan(rows); err != nil {
			return nil, err
		}
		page = append(page, e)
	}
	return page, rows.Err()
}

// visit visits the messages of a page and takes out those that are asked for, also if it is broken off.
func (b *Broker) visit(ctx context.Context, page []entry, visit func(msg *message.Message) (bool, error)) (err error) {
	var taken []int64
	for i := range page {
		if err = ctx.Err(); err != nil {
			break
		}
		var take bool
		if take, err = visit(page[i].message()); err != nil {
			break
		}
		if take {
			taken = append(taken, page[i].offset)
		}
	}
	if len(taken) > 0 {
		if _, gone := b.exec(context.WithoutCancel(ctx), b.sql.remove, pq.Array(taken)); gone != nil {
			err = errors.Join(err, outage("take messages out", gone))
		}
	}
	return err
}
