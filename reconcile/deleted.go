package reconcile

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// DeletedReplica writes the keys of all rows of a replica's table: the first step
// of the search for rows that the master has deleted, made by the replica.
//
//	account,2026-11-22 21:21:52.826428+00:00
//	[3,4,5,900,901,1,2]
//
// Nothing is written when there is no row. batch is as in [DiffMaster].
func DeletedReplica(ctx context.Context, w io.Writer, from Replica, entity string, batch int, progress Progress) (rows int64, err error) {
	reader, err := from.Consumer.Reader(ctx, entity)
	if err != nil {
		return 0, err
	}
	out := bufio.NewWriterSize(w, 1<<16)
	h := header{entity: entity, at: now()}
	size := batchOf(batch)
	keys := make([]json.RawMessage, 0, size)
	end := func() error {
		err := writeKeys(out, keys)
		keys = keys[:0]
		progress.report(rows)
		return err
	}
	for row, err := range reader.All(ctx) {
		if err != nil {
			return rows, err
		}
		if rows == 0 {
			if err := h.write(out); err != nil {
				return 0, fmt.Errorf("reconcile: write: %w", err)
			}
		}
		rows++
		if keys = append(keys, row.PK); len(keys) == size {
			if err := end(); err != nil {
				return rows, fmt.Errorf("reconcile: write: %w", err)
			}
		}
	}
	if err := errors.Join(end(), out.Flush()); err != nil {
		return rows, fmt.Errorf("reconcile: write: %w", err)
	}
	return rows, nil
}

// DeletedMaster reads what [DeletedReplica] wrote and writes the keys that the
// master lacks, under the same header: the second step, made by the master.
// found is as in [DiffReplica].
func DeletedMaster(ctx context.Context, r io.Reader, w io.Writer, m Master, progress Progress, found func(keys []json.RawMessage)) (Result, error) {
	in := newLines(r)
	h, _, err := in.header()
	if err != nil {
		return emptyIsNothing(err)
	}
	result := Result{Entity: h.entity}
	if err := h.write(w); err != nil {
		return result, fmt.Errorf("reconcile: write: %w", err)
	}
	err = sift(in.keys, w, &result, progress, found, func(keys []json.RawMessage) ([]json.RawMessage, error) {
		return m.lacking(ctx, h.entity, keys)
	})
	return result, err
}

// lacking returns the keys that have no row in the master.
func (m Master) lacking(ctx context.Context, entity string, keys []json.RawMessage) ([]json.RawMessage, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	there := make(map[string]bool, len(keys))
	for v, err := range m.Outbox.Versions(ctx, m.DB, entity, among(keys), "") {
		if err != nil {
			return nil, err
		}
		there[keyText(v.PK)] = true
	}
	var lacking []json.RawMessage
	told := make(map[string]bool, len(there)) // whose they are
	for _, key := range keys {
		if text := keyText(key); there[text] {
			told[text] = true
		} else {
			lacking = append(lacking, key)
		}
	}
	if len(told) < len(there) {
		return m.lackingByCount(ctx, entity, lacking)
	}
	return lacking, nil
}

// lackingByCount returns the keys that have no row in the master, which spells some of
// those that it has in another way: 1.5 as 1.50, or a time. Only the master's database
// knows which are equal, and it tells how many rows some keys have.
func (m Master) lackingByCount(ctx context.Context, entity string, keys []json.RawMessage) ([]json.RawMessage, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	rows, err := m.Outbox.Count(ctx, m.DB, entity, among(keys))
	switch half := len(keys) / 2; {
	case err != nil:
		return nil, err
	case rows == 0:
		return keys, nil
	case rows >= int64(len(keys)):
		return nil, nil
	default:
		first, err := m.lackingByCount(ctx, entity, keys[:half:half])
		if err != nil {
			return nil, err
		}
		second, err := m.lackingByCount(ctx, entity, keys[half:])
		return append(first, second...), err
	}
}

// DeletedSync reads what [DeletedMaster] wrote and deletes those rows: the last
// step, made by the replica. A row that was changed after the time in the header
// stays, for it was made anew. The others leave tombstones, so that their late
// events do not bring them back. failed is told the keys that cannot be deleted,
// with the reason.
func DeletedSync(ctx context.Context, r io.Reader, to Replica, progress Progress, failed func(key json.RawMessage, err error)) (result Result, err error) {
	in := newLines(r)
	h, at, err := in.header()
	if err != nil {
		return emptyIsNothing(err)
	}
	result.Entity = h.entity
	loader, err := to.Consumer.Loader(ctx, h.entity, nil)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, loader.Close()) }()
	for {
		keys, err := in.keys()
		if errors.Is(err, io.EOF) {
			return result, nil
		}
		if err != nil {
			return result, err
		}
		done, err := loader.Delete(ctx, keys, at)
		if err != nil {
			return result, err
		}
		for i, key := range keys {
			if err := done.Failed[i]; err != nil && failed != nil {
				failed(key, err)
			}
		}
		result.Rows += int64(len(keys))
		result.Found += int64(done.Applied)
		progress.report(result.Rows)
	}
}
