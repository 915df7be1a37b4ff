package sql

import (
	"context"
	"database/sql"
	"errors"

	wsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/lib/pq"
)

// place is what watermill-sql is told as the topic, for its logs. The queue is a parameter of our
// statements, so that it may have any name.
const place = "messages"

// insertion is the schema with which watermill-sql's publisher stores parcels.
type insertion struct {
	wsql.PostgreSQLQueueSchema

	query   string
	parcels []*parcel
}

// InsertQuery stores each parcel for every queue that is bound to its topic.
func (s insertion) InsertQuery(wsql.InsertQueryParams) (wsql.Query, error) {
	n := len(s.parcels)
	topics, uuids, metadata := make([]string, n), make([]string, n), make([]sql.NullString, n)
	payloads := make([][]byte, n)
	delays, lives := make([]int64, n), make([]int64, n)
	for i, p := range s.parcels {
		topics[i], uuids[i], payloads[i] = p.topic, p.uuid, p.payload
		metadata[i] = sql.NullString{String: p.metadata, Valid: p.metadata != ""}
		delays[i], lives[i] = p.delay, p.life
	}
	return wsql.Query{Query: s.query, Args: []any{
		pq.Array(topics), pq.Array(uuids), pq.ByteaArray(payloads), pq.Array(metadata), pq.Array(delays), pq.Array(lives),
	}}, nil
}

// inserter runs watermill-sql's insertion and keeps what it returns: the numbers, from 1, of the parcels
// that no queue is bound for. The contexts of messages are their senders' and do not bound it.
type inserter struct {
	query   func(query string, args ...any) (*sql.Rows, error)
	unbound []int
}

// ExecContext runs the statement.
func (i *inserter) ExecContext(_ context.Context, query string, args ...any) (wsql.Result, error) {
	rows, err := i.query(query, args...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var n int
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		i.unbound = append(i.unbound, n-1)
	}
	return nil, rows.Err()
}

// QueryContext is not used by a publisher.
func (i *inserter) QueryContext(context.Context, string, ...any) (wsql.Rows, error) {
	return nil, errors.New("sql: a publisher does not query")
}

// insert stores parcels for ConfirmTimeout at most and returns the indexes of those that no queue is
// bound for.
func (b *Broker) insert(ctx context.Context, parcels []*parcel) (unbound []int, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.ConfirmTimeout)
	defer cancel()
	defer func() { err = because(ctx, err) }()
	db := &inserter{query: func(query string, args ...any) (*sql.Rows, error) { return b.db.QueryContext(ctx, query, args...) }}
	publisher, err := wsql.NewPublisher(db, wsql.PublisherConfig{
		SchemaAdapter: insertion{query: b.sql.store, parcels: parcels},
	}, nil)
	if err != nil {
		return nil, err
	}
	if err := publisher.Publish(place, make([]*message.Message, 0)...); err != nil {
		return nil, err
	}
	return db.unbound, nil
}
