package reconcile

import (
	"context"
	"encoding/json"
	"iter"
	"strings"

	"github.com/lockstep-go/lockstep/consumer"
	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/outbox"
)

// What may be between a master's row and its replica.
const (
	// Missing: the replica lacks the row.
	Missing = "missing"
	// Extra: the replica has a row that the master lacks.
	Extra = "extra"
	// Revision: the two have different revisions.
	Revision = "revision"
	// Fields: the two have the same revision and different values.
	Fields = "fields"
)

// Difference is one row that is not the same on both sides.
type Difference struct {
	// What is Missing, Extra, Revision or Fields.
	What string `json:"what"`
	// Key is the key as events have it.
	Key json.RawMessage `json:"key"`
	// Master and Replica are the revisions.
	Master  int64 `json:"master_revision"`
	Replica int64 `json:"replica_revision"`
	// Fields are the values that differ, by the master's names, when they were
	// compared.
	Fields []FieldDifference `json:"fields,omitempty"`
}

// FieldDifference is a field whose values differ.
type FieldDifference struct {
	Name    string          `json:"name"`
	Master  json.RawMessage `json:"master"`
	Replica json.RawMessage `json:"replica"`
}

// Summary counts what a comparison found.
type Summary struct {
	Entity string `json:"cqrs_id"`
	// Rows counts the master's rows that were compared.
	Rows     int64 `json:"rows"`
	Missing  int64 `json:"missing"`
	Extra    int64 `json:"extra"`
	Revision int64 `json:"revision"`
	Fields   int64 `json:"fields"`
}

// Differences returns how many rows differ.
func (s *Summary) Differences() int64 { return s.Missing + s.Extra + s.Revision + s.Fields }

// CompareOptions say what is compared.
type CompareOptions struct {
	// Filter selects the master's rows. With any other than [outbox.All], rows
	// that the replica has too many are not looked for.
	Filter outbox.Filter
	// Fields compares the values, too.
	Fields bool
	// Batch is how many rows are compared at once; zero means DefaultBatch.
	Batch    int
	Progress Progress
	// Found is called for each row that differs.
	Found func(Difference)
}

// Compare compares an entity's rows with its replica, both ways. It sees each
// side as it is at that moment: events under way show up as differences.
func Compare(ctx context.Context, m Master, to Replica, entity string, o CompareOptions) (Summary, error) {
	c := &comparison{CompareOptions: o, m: m, Summary: Summary{Entity: entity}}
	var err error
	if c.reader, err = to.Consumer.Reader(ctx, entity); err != nil {
		return c.Summary, err
	}
	if err := c.forward(ctx); err != nil {
		return c.Summary, err
	}
	if o.Filter == outbox.All {
		err = c.backward(ctx)
	}
	return c.Summary, err
}

type comparison struct {
	CompareOptions
	Summary
	m      Master
	reader *consumer.Reader
	looked int64 // for the progress
}

func (c *comparison) found(d Difference, count *int64) {
	*count++
	if c.Found != nil {
		c.Found(d)
	}
}

// masterRow is a row as far as it is compared.
type masterRow struct {
	outbox.Version
	data json.RawMessage
}

// masterRows reads the master's side, with data only where it is wanted.
func (c *comparison) masterRows(ctx context.Context) iter.Seq2[masterRow, error] {
	return func(yield func(masterRow, error) bool) {
		if !c.CompareOptions.Fields {
			for v, err := range c.m.Outbox.Versions(ctx, c.m.DB, c.Entity, c.Filter, "") {
				if !yield(masterRow{Version: v}, err) || err != nil {
					return
				}
			}
			return
		}
		for row, err := range c.m.Outbox.Rows(ctx, c.m.DB, c.Entity, c.Filter, "") {
			var r masterRow
			if err == nil {
				r, err = versionOf(row)
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}

// versionOf finds the revision in a row's data.
func versionOf(row outbox.Row) (masterRow, error) {
	e := event.Event{Data: row.Data}
	v, err := e.Version()
	return masterRow{outbox.Version{Key: row.Key, PK: row.PK, Revision: v.Revision}, row.Data}, err
}

// forward looks for the master's rows in the replica.
func (c *comparison) forward(ctx context.Context) error {
	size := batchOf(c.Batch)
	batch := make([]masterRow, 0, size)
	for row, err := range c.masterRows(ctx) {
		if err != nil {
			return err
		}
		if batch = append(batch, row); len(batch) == size {
			if err := c.compare(ctx, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	return c.compare(ctx, batch)
}

func (c *comparison) compare(ctx context.Context, batch []masterRow) error {
	if len(batch) == 0 {
		return nil
	}
	keys := make([]json.RawMessage, len(batch))
	for i, row := range batch {
		keys[i] = row.PK
	}
	find := c.reader.Find
	if c.CompareOptions.Fields {
		find = c.reader.FindRows
	}
	stored, err := find(ctx, keys)
	if err != nil {
		return err
	}
	for _, row := range batch {
		have, ok := stored[c.reader.Key(row.PK)]
		d := Difference{Key: row.PK, Master: row.Revision, Replica: have.Revision}
		if c.CompareOptions.Fields && ok {
			d.Fields = differing(row.data, have.Data)
		}
		switch {
		case !ok:
			d.What = Missing
			c.found(d, &c.Missing)
		case have.Revision != row.Revision:
			d.What = Revision
			c.found(d, &c.Revision)
		case len(d.Fields) > 0:
			d.What = Fields
			c.found(d, &c.Summary.Fields)
		}
	}
	c.Rows += int64(len(batch))
	c.tick(len(batch))
	return nil
}

func (c *comparison) tick(rows int) {
	c.looked += int64(rows)
	c.Progress.report(c.looked)
}

// backward looks for the replica's rows in the master.
func (c *comparison) backward(ctx context.Context) error {
	size := batchOf(c.Batch)
	batch := make([]consumer.Stored, 0, size)
	check := func() error {
		keys := make([]json.RawMessage, len(batch))
		revisions := make(map[string]int64, len(batch))
		for i, row := range batch {
			keys[i] = row.PK
			revisions[string(row.PK)] = row.Revision
		}
		lacking, err := c.m.lacking(ctx, c.Entity, keys)
		for _, key := range lacking {
			c.found(Difference{What: Extra, Key: key, Replica: revisions[string(key)]}, &c.Extra)
		}
		c.tick(len(batch))
		batch = batch[:0]
		return err
	}
	for row, err := range c.reader.All(ctx) {
		if err != nil {
			return err
		}
		if batch = append(batch, row); len(batch) == size {
			if err := check(); err != nil {
				return err
			}
		}
	}
	return check()
}

// keyText is one text for the spellings of a key that two databases may have.
func keyText(pk json.RawMessage) string {
	text, _ := event.Text(pk)
	if len(text) == 36 && strings.Count(text, "-") == 4 { // a UUID kept as text, perhaps
		return strings.ToLower(text)
	}
	return text
}
