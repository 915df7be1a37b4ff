package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"strconv"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/lockstep-go/lockstep/event"
)

// PipelinedPublisher is a publisher that sends without waiting for each
// confirmation. Lockstep's broker adapters are such.
type PipelinedPublisher interface {
	message.Publisher
	// PublishAsync hands messages to the broker in order, msgs[i] on topics[i],
	// and returns without waiting for confirmations. Messages of a later call
	// follow those of an earlier one. wait blocks until every message is
	// confirmed, refused or given up; it returns nil when all were confirmed,
	// else one error a message, nil for those confirmed.
	//
	// An error with a method Permanent() bool is about the message itself; one
	// with Unroutable() bool says that no queue wanted it. Every other error is
	// taken as an outage.
	PublishAsync(ctx context.Context, topics []string, msgs []*message.Message) (wait func(ctx context.Context) []error)
}

// namespace makes event ids for rows that other programs put into the outbox
// without one. The same row gives the same id each time it is sent.
var namespace = uuid.MustParse("6f7b7c5e-9d0a-5d5e-8f43-2f1f6c3f4b6a")

// newMessage makes the message of a row.
func newMessage(r row) *message.Message {
	metadata := make(message.Metadata, 3)
	if !json.Valid(r.metadata) { // put in where the table does not check it
		r.metadata = nil
	}
	for name, value := range event.Members(r.metadata) {
		if text, ok := event.Text(value); ok {
			metadata[string(name)] = text
		} else if !event.IsNull(value) {
			metadata[string(name)] = string(value)
		}
	}
	id := metadata[event.HeaderEventID]
	if id == "" {
		id = uuid.NewSHA1(namespace, strconv.AppendInt(nil, r.id, 10)).String()
	}
	metadata[event.HeaderOutboxID] = strconv.FormatInt(r.id, 10)
	m := message.NewMessage(id, r.payload)
	m.Metadata = metadata
	return m
}

// laned publishes through any Watermill publisher: messages are split by key
// over lanes that work side by side, each in order. Such a publisher's errors do
// not tell a refused message from a broker that is away. A message counts as
// refused when others went through beside it or since it was last tried.
type laned struct {
	message.Publisher
	lanes int
	seed  maphash.Seed
	// alive says that a message went through since the last time that none did.
	alive bool
}

// fresh returns lanes of the same kind for one session; nil has none.
func (l *laned) fresh() *laned {
	if l == nil {
		return nil
	}
	return &laned{Publisher: l.Publisher, lanes: l.lanes, seed: l.seed}
}

// errBehind is what a message gets whose key had a message refused before it.
var errBehind = errors.New("relay: an earlier message of this key was not published")

// opaqueRefusal is an error of a publisher that does not tell refusals from
// outages, while other messages went through.
type opaqueRefusal struct{ error }

func (e opaqueRefusal) Unwrap() error   { return e.error }
func (e opaqueRefusal) Permanent() bool { return false }

// publish publishes the rows' messages and waits for the result, or for ctx to
// end: a publisher that hangs is left to itself then.
func (l *laned) publish(ctx context.Context, rows []row, topics []string, msgs []*message.Message) []error {
	done := make(chan []error, 1)
	go func() { done <- l.publishAll(ctx, rows, topics, msgs) }()
	select {
	case errs := <-done:
		return l.explain(rows, errs)
	case <-ctx.Done():
		return allOf(len(rows), context.Cause(ctx))
	}
}

func (l *laned) publishAll(ctx context.Context, rows []row, topics []string, msgs []*message.Message) []error {
	errs := make([]error, len(rows))
	lanes := make([][]int, l.lanes)
	for i, r := range rows {
		n := maphash.Comparable(l.seed, r.unit.whole()) % uint64(l.lanes) //nolint:gosec // New has checked that lanes is positive
		lanes[n] = append(lanes[n], i)
	}
	var group sync.WaitGroup
	for _, lane := range lanes {
		if len(lane) > 0 {
			group.Go(func() { l.runLane(ctx, lane, rows, topics, msgs, errs) })
		}
	}
	group.Wait()
	return errs
}

// runLane publishes the lane's messages, neighbours of one topic together. When
// that fails, each is tried alone to find the culprit.
func (l *laned) runLane(ctx context.Context, lane []int, rows []row, topics []string, msgs []*message.Message, errs []error) {
	failed := map[unit]bool{}
	for start := 0; start < len(lane); {
		end := start + 1
		for end < len(lane) && topics[lane[end]] == topics[lane[start]] {
			end++
		}
		together := make([]*message.Message, 0, end-start)
		for _, i := range lane[start:end] {
			together = append(together, msgs[i])
		}
		if len(failed) == 0 && ctx.Err() == nil && l.Publish(topics[lane[start]], together...) == nil {
			start = end
			continue
		}
		for _, i := range lane[start:end] {
			if u := rows[i].unit; failed[u] || failed[u.whole()] {
				errs[i] = errBehind
				continue
			}
			if errs[i] = context.Cause(ctx); errs[i] == nil {
				errs[i] = l.Publish(topics[i], msgs[i])
			}
			if errs[i] != nil {
				failed[rows[i].unit] = true
			}
		}
		start = end
	}
}

// suspectError is an error about a message that was refused before, when nothing
// else was published that would show whether the broker is there. It spends no
// attempt and is no outage either, so that other keys do not wait for it.
type suspectError struct{ error }

func (e suspectError) Unwrap() error { return e.error }

// explain turns errors, which say nothing about their cause, into refusals when
// other messages went through, so that it was not the broker that was away.
func (l *laned) explain(rows []row, errs []error) []error {
	failed, retried := 0, 0
	for i, err := range errs {
		if err != nil {
			failed++
		}
		if rows[i].retry {
			retried++
		}
	}
	wasAlive := l.alive
	l.alive = failed < len(errs)
	switch {
	case failed == 0:
		return nil
	case failed == len(errs) && retried < len(errs):
		return errs
	}
	for i, err := range errs {
		var refusal interface {
			error
			Permanent() bool
		}
		switch {
		case err == nil || errors.As(err, &refusal):
		case !l.alive && !wasAlive:
			errs[i] = suspectError{err}
		default:
			errs[i] = opaqueRefusal{fmt.Errorf("publish: %w", err)}
		}
	}
	return errs
}
