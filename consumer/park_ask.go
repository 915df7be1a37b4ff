package consumer

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// Somebody else may apply the row that a parked message waits for: another process
// of this consumer, another consumer, or hands. So the database is asked for these
// rows now and then.
const (
	askEvery   = 500 * time.Millisecond
	askTimeout = 5 * time.Second
)

// question asks for the rows that one foreign key of one replica refers to.
type question struct {
	parent
	columns []dialect.Column
	rows    []asked
}

type asked struct {
	by     *parked
	values []any
}

// ask takes out the messages whose parents are all there by now, in the order of
// their arrival. What it cannot find out is left to the messages' delays.
func (p *parking) ask() []*incoming {
	if time.Since(p.asked) < p.askEvery {
		return nil
	}
	ctx, cancel := context.WithTimeout(p.work, askTimeout)
	defer cancel()
	questions, missing := p.questions()
	for _, q := range questions {
		for part := range slices.Chunk(q.rows, dialect.MaxReferred) {
			found, err := p.referred(ctx, q, part)
			if err != nil {
				p.log.Debug("ask for rows that parked messages refer to", logEntity, q.rows[0].by.in.ev.CQRSID, logError, err)
				continue
			}
			for _, i := range found {
				missing[part[i].by]--
			}
		}
	}
	for entry, n := range missing {
		entry.woken = n == 0
		entry.found = entry.found || n == 0 && !p.isPaused(entry)
	}
	p.asked = time.Now()
	return p.wakened()
}

// questions returns what to ask, and how many rows each message needs. Messages that
// cannot be asked about, or to no avail, are left out.
func (p *parking) questions() (questions []*question, missing map[*parked]int) {
	type kind struct {
		to *replica
		at int
	}
	kinds := make(map[kind]*question)
	missing = make(map[*parked]int, len(p.list))
	for _, entry := range p.list {
		if entry.found || p.isPaused(entry) {
			continue
		}
		in := entry.in
		for at, parent := range in.to.parents {
			if !in.has(parent.slots) {
				continue
			}
			k := kind{in.to, at}
			q := kinds[k]
			if q == nil {
				q = &question{parent: parent}
				for _, slot := range parent.slots {
					q.columns = append(q.columns, *in.to.column(slot))
				}
				kinds[k], questions = q, append(questions, q)
			}
			missing[entry]++
			if values, ok := p.valuesOf(in, parent.slots); ok { // else it stays missing
				q.rows = append(q.rows, asked{entry, values})
			}
		}
	}
	return questions, missing
}

// valuesOf returns the values of slots as the question takes them.
func (p *parking) valuesOf(in *incoming, slots []int) ([]any, bool) {
	values := make([]any, len(slots))
	for i, slot := range slots {
		column, raw := in.to.column(slot), in.values[slot]
		var err error
		switch p.dialect {
		case dialect.MySQL:
			values[i], err = mysqlValue(column, raw)
		case dialect.SQLite:
			values[i], err = sqliteValue(column, raw)
		default:
			text, ok := event.Text(raw)
			if values[i] = text; !ok || column.Base == "bytea" {
				return nil, false
			}
		}
		if err != nil {
			return nil, false
		}
	}
	return values, true
}

// referred returns the places of the rows that are there.
func (p *parking) referred(ctx context.Context, q *question, rows []asked) (found []int, err error) {
	var args []any
	if p.dialect == dialect.Postgres {
		for i := range q.slots {
			list := make([]string, len(rows))
			for n, row := range rows {
				list[n] = fmt.Sprint(row.values[i])
			}
			args = append(args, p.dialect.Texts(list))
		}
	} else {
		for _, row := range rows {
			args = append(args, row.values...)
		}
	}
	answer, err := p.db.QueryContext(ctx, p.dialect.Referred(q.Reference, q.columns, len(rows)), args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Close() }()
	for answer.Next() {
		var i int
		if err := answer.Scan(&i); err != nil {
			return nil, err
		}
		found = append(found, i)
	}
	return found, answer.Err()
}
