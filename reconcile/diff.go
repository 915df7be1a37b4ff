package reconcile

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/lockstep-go/lockstep/outbox"
)

// noQueue is how a header says that a SYNC goes to all queues.
const noQueue = "None"

// DiffMaster writes the keys and revisions of the rows that the filter selects:
// the first step of a comparison, made by the master.
//
//	account,2026-11-22 21:21:45.270311+00:00
//	[[1,0],[2,0],[3,0]]
//
// Nothing is written when there is no row. batch is how many keys a line has;
// zero means [DefaultBatch]. It returns how many rows there were.
func DiffMaster(ctx context.Context, w io.Writer, m Master, entity string, filter outbox.Filter, batch int, progress Progress) (rows int64, err error) {
	out := bufio.NewWriterSize(w, 1<<16)
	h := header{entity: entity, at: now()}
	var line []byte
	size := int64(batchOf(batch))
	end := func() error {
		_, err := out.Write(append(line, ']', '\n'))
		line = line[:0]
		progress.report(rows)
		return err
	}
	for v, err := range m.Outbox.Versions(ctx, m.DB, entity, filter, "") {
		if err != nil {
			return rows, err
		}
		if rows == 0 {
			if err := h.write(out); err != nil {
				return 0, fmt.Errorf("reconcile: write: %w", err)
			}
		}
		if len(line) == 0 {
			line = append(line, '[')
		} else {
			line = append(line, ',')
		}
		line = append(append(append(line, '['), v.PK...), ',')
		line = append(strconv.AppendInt(line, v.Revision, 10), ']')
		if rows++; rows%size == 0 {
			if err := end(); err != nil {
				return rows, fmt.Errorf("reconcile: write: %w", err)
			}
		}
	}
	if len(line) > 0 {
		if err := end(); err != nil {
			return rows, fmt.Errorf("reconcile: write: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return rows, fmt.Errorf("reconcile: write: %w", err)
	}
	return rows, nil
}

// Result is what a step of a comparison came to.
type Result struct {
	// Entity is the CQRS ID, "" when the stream was empty.
	Entity string `json:"cqrs_id"`
	// Rows counts the keys that were looked at, Found those that were written or
	// acted upon.
	Rows  int64 `json:"rows"`
	Found int64 `json:"found"`
}

// DiffReplica reads what [DiffMaster] wrote and writes the keys that are absent
// here or have another revision: the second step, made by the replica.
//
//	account,2026-11-22 21:21:45.270311+00:00,billing
//	[1,2]
//
// found, if not nil, is told the keys of each line.
func DiffReplica(ctx context.Context, r io.Reader, w io.Writer, to Replica, progress Progress, found func(keys []json.RawMessage)) (Result, error) {
	in := newLines(r)
	h, _, err := in.header()
	if err != nil {
		return emptyIsNothing(err)
	}
	result := Result{Entity: h.entity}
	reader, err := to.Consumer.Reader(ctx, h.entity)
	if err != nil {
		return result, err
	}
	if h.queue = to.Queue; h.queue == "" {
		h.queue = noQueue
	}
	if err := h.write(w); err != nil {
		return result, fmt.Errorf("reconcile: write: %w", err)
	}
	err = sift(in.versions, w, &result, progress, found, func(versions []keyVersion) ([]json.RawMessage, error) {
		keys := make([]json.RawMessage, len(versions))
		for i, v := range versions {
			keys[i] = v.key
		}
		stored, err := reader.Find(ctx, keys)
		differ := keys[:0]
		for _, v := range versions {
			if have, ok := stored[reader.Key(v.key)]; !ok || have.Revision != v.revision {
				differ = append(differ, v.key)
			}
		}
		return differ, err
	})
	return result, err
}

// sift reads lines until there are no more, writes the keys that pick takes out of each,
// and counts both.
func sift[T any](
	next func() ([]T, error), w io.Writer, result *Result, progress Progress, found func([]json.RawMessage), pick func([]T) ([]json.RawMessage, error),
) error {
	for {
		line, err := next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		keys, err := pick(line)
		if err != nil {
			return err
		}
		result.Rows += int64(len(line))
		result.Found += int64(len(keys))
		if found != nil && len(keys) > 0 {
			found(keys)
		}
		if err := writeKeys(w, keys); err != nil {
			return fmt.Errorf("reconcile: write: %w", err)
		}
		progress.report(result.Rows)
	}
}

// emptyIsNothing: the step before writes nothing when it has nothing to say.
func emptyIsNothing(err error) (Result, error) {
	if errors.Is(err, ErrEmpty) {
		return Result{}, nil
	}
	return Result{}, err
}

// keyVersion is a key with its revision, as a line of DiffMaster has it.
type keyVersion struct {
	key      json.RawMessage
	revision int64
}

// versions reads a line of keys and revisions.
func (l *lines) versions() ([]keyVersion, error) {
	line, err := l.next()
	if err != nil {
		return nil, err
	}
	var pairs [][2]json.RawMessage
	if err := json.Unmarshal(line, &pairs); err != nil {
		return nil, l.fault(fmt.Errorf("%.60q is not a JSON array of [key, revision]", line))
	}
	versions := make([]keyVersion, len(pairs))
	for i, pair := range pairs {
		revision, err := strconv.ParseInt(string(pair[1]), 10, 64)
		if err != nil {
			return nil, l.fault(fmt.Errorf("key %.60s: revision %.20s is not a whole number", pair[0], pair[1]))
		}
		versions[i] = keyVersion{pair[0], revision}
	}
	return versions, nil
}

// syncKeys is how many keys one Sync takes.
const syncKeys = 500

// DiffSyncOptions say how [DiffSync] sends.
type DiffSyncOptions struct {
	// Queue, when set, gets the rows instead of the one that the header names.
	Queue string
	// CheckQueue, when set, is asked about the one queue before anything is sent. Its
	// error ends the call. Rows that go to all replicas need none.
	CheckQueue func(queue string) error
	// Progress is called now and then with how many keys are done.
	Progress Progress
	// Sync is handed on to [outbox.Outbox.Sync].
	Sync []outbox.SyncOption
}

// DiffSync reads what [DiffReplica] wrote and sends the current state of those
// rows to the queue that the header names: the last step, made by the master.
// Keys that are gone by now are left out.
func DiffSync(ctx context.Context, r io.Reader, m Master, o DiffSyncOptions) (Result, error) {
	in := newLines(r)
	h, _, err := in.header()
	if err != nil {
		return emptyIsNothing(err)
	}
	result := Result{Entity: h.entity}
	queue := h.queue
	switch {
	case o.Queue != "":
		queue = o.Queue
	case queue == "":
		return result, in.fault(errors.New("the header names no queue: is this the output of `diff replica`?"))
	case queue == noQueue:
		queue = ""
	}
	if queue != "" && o.CheckQueue != nil {
		if err := o.CheckQueue(queue); err != nil {
			return result, err
		}
	}
	for {
		keys, err := in.keys()
		if errors.Is(err, io.EOF) {
			return result, nil
		}
		if err != nil {
			return result, err
		}
		for part := range slices.Chunk(keys, syncKeys) {
			done, err := m.Outbox.Sync(ctx, m.DB, h.entity, among(part), queue, o.Sync...)
			result.Found += done.Rows
			if err != nil {
				return result, err
			}
			result.Rows += int64(len(part))
			o.Progress.report(result.Rows)
		}
	}
}
