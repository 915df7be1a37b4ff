package reconcile

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/outbox"
)

// Dump writes the rows of an entity that the filter selects ([outbox.All] for
// all) to w, and returns how many there were.
func Dump(ctx context.Context, w io.Writer, m Master, entity string, filter outbox.Filter, progress Progress) (rows int64, err error) {
	out := bufio.NewWriterSize(w, 1<<16)
	if _, err := out.WriteString(entity); err != nil {
		return 0, fmt.Errorf("reconcile: write: %w", err)
	}
	for row, err := range m.Outbox.Rows(ctx, m.DB, entity, filter, "") {
		if err != nil {
			return rows, err
		}
		_ = out.WriteByte('\n') // its error stays and comes up below
		if _, err := out.Write(row.Data); err != nil {
			return rows, fmt.Errorf("reconcile: write: %w", err)
		}
		if rows++; rows%DefaultBatch == 0 {
			progress.report(rows)
		}
	}
	if err := out.Flush(); err != nil {
		return rows, fmt.Errorf("reconcile: write: %w", err)
	}
	progress.report(rows)
	return rows, nil
}

// LoadOptions say how a dump is loaded.
type LoadOptions struct {
	// Clear deletes all rows first.
	Clear bool
	// Apart makes each batch a transaction of its own. Without it the whole load,
	// Clear too, is one: others see all of it or nothing, and an error leaves
	// everything as it was. Rows that do not fit are no error.
	Apart bool
	// Batch is how many rows go together; zero means DefaultBatch.
	Batch int
	// Failed is called for each row that does not fit, with its line in the dump.
	Failed func(line int, err error)
	// Progress is called after each batch.
	Progress Progress
}

// LoadResult is what became of the rows of a dump.
type LoadResult struct {
	// Entity is the CQRS ID that the dump is of.
	Entity string `json:"cqrs_id"`
	// Cleared counts rows deleted before the load.
	Cleared int64 `json:"cleared"`
	// Applied counts rows that were written, Skipped those that were here in the
	// same or a newer revision, or were deleted later, Failed those that do not fit.
	Applied int64 `json:"applied"`
	Skipped int64 `json:"skipped"`
	Failed  int64 `json:"failed"`
}

// Load applies a dump to the table that follows its entity. Rows count as SAVEs:
// one that is here in the same or a newer revision stays. A row that does not fit
// is reported and hinders no other; the error is nil then, and the result counts
// it.
func Load(ctx context.Context, from io.Reader, to Replica, o LoadOptions) (_ LoadResult, err error) {
	defer func() { err = dialect.WithCause(ctx, err) }()
	l := &load{lines: newLines(from), to: to, LoadOptions: o}
	first, err := l.lines.next()
	switch {
	case errors.Is(err, io.EOF), err == nil && len(first) == 0:
		return l.result, fmt.Errorf("reconcile: dump: %w", ErrEmpty)
	case err != nil:
		return l.result, err
	}
	l.result.Entity = string(first)
	if o.Apart {
		err := l.run(ctx, nil)
		return l.result, err
	}
	// MySQL's own level locks the gaps between rows, too, for as long as the load takes.
	tx, err := to.DB.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelReadCommitted})
	if err != nil {
		return l.result, fmt.Errorf("reconcile: begin: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // does nothing after a commit
	if err := l.run(ctx, tx); err != nil {
		return l.result, err
	}
	if err := tx.Commit(); err != nil {
		return l.result, fmt.Errorf("reconcile: commit: %w", err)
	}
	return l.result, nil
}

// load is a load under way.
type load struct {
	LoadOptions
	lines  *lines
	to     Replica
	result LoadResult
	done   int64
}

func (l *load) run(ctx context.Context, tx *sql.Tx) (err error) {
	loader, err := l.to.Consumer.Loader(ctx, l.result.Entity, tx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, loader.Close()) }()
	if l.Clear {
		if l.result.Cleared, err = loader.Clear(ctx); err != nil {
			return err
		}
	}
	ctx, stop := context.WithCancel(ctx)
	batches := make(chan *loadBatch, 1)
	ended := make(chan error, 1)
	go func() { ended <- l.read(ctx, batches) }()
	err = l.apply(ctx, loader, batches)
	stop()
	for range batches { // lets the reader end
	}
	if read := <-ended; err == nil {
		err = read // else the reader was stopped because of err
	}
	return err
}

// loadBatch is rows with their lines, and the lines that are none.
type loadBatch struct {
	rows   []json.RawMessage
	lines  []int
	faults []FormatError
}

// ErrCutOff reports a dump that ends within a row. What was loaded of it is undone,
// unless each batch is a transaction of its own.
var ErrCutOff = errors.New("the dump ends within a row: whatever wrote it broke off")

// maxLoadBytes bounds the rows of a batch.
const maxLoadBytes = 8 << 20

// read reads the dump, ahead of what is being applied.
func (l *load) read(ctx context.Context, out chan<- *loadBatch) error {
	defer close(out)
	size := batchOf(l.Batch)
	for {
		b := &loadBatch{}
		var err error
		for bytes := 0; len(b.rows)+len(b.faults) < size && bytes < maxLoadBytes; {
			var line []byte
			if line, err = l.lines.next(); err != nil {
				break
			}
			bytes += len(line)
			data, fault := readRow(line)
			if fault != nil && l.lines.cutOff(line) {
				err = l.lines.fault(ErrCutOff)
				break
			}
			if fault != nil {
				b.faults = append(b.faults, FormatError{l.lines.number, fault})
				continue
			}
			b.rows, b.lines = append(b.rows, data), append(b.lines, l.lines.number)
		}
		if len(b.rows)+len(b.faults) > 0 {
			select {
			case out <- b:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readRow returns a copy of a dump's line that is valid JSON, of one object.
func readRow(line []byte) (json.RawMessage, error) {
	if json.Valid(line) {
		if line = bytes.TrimSpace(line); line[0] != '{' {
			return nil, fmt.Errorf("%.60q is not a JSON object", line)
		}
		return bytes.Clone(line), nil
	}
	// django-cqrs writes NaN and Infinity as they are; event knows about that.
	envelope := append([]byte(`{"signal_type":"SAVE","cqrs_id":"dump","instance_pk":null,"instance_data":`), line...)
	e, err := event.Decode(append(envelope, '}'))
	if err != nil || len(e.Data) == 0 || e.Data[0] != '{' {
		return nil, fmt.Errorf("%.60q is not JSON", line)
	}
	return e.Data, nil
}

func (l *load) apply(ctx context.Context, loader *consumer.Loader, batches <-chan *loadBatch) error {
	for b := range batches {
		for _, fault := range b.faults {
			l.fail(fault.Line, fault.Err)
		}
		loaded, err := loader.Save(ctx, b.rows)
		if err != nil {
			return err
		}
		l.result.Applied += int64(loaded.Applied)
		l.result.Skipped += int64(loaded.Skipped)
		for i, line := range b.lines {
			if err := loaded.Failed[i]; err != nil {
				l.fail(line, err)
			}
		}
		l.done += int64(len(b.rows) + len(b.faults))
		l.Progress.report(l.done)
	}
	return nil
}

func (l *load) fail(line int, err error) {
	l.result.Failed++
	if l.Failed != nil {
		l.Failed(line, err)
	}
}
