package outbox

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/lockstep-go/lockstep/internal/dialect"
	"github.com/lockstep-go/lockstep/internal/tracing"
)

// outgoing is one message as its outbox row will be.
type outgoing struct {
	topic, key, metadata string
	payload              []byte
	traced               bool // metadata names a span already
}

// insertEvents writes the rows of events that were made here. The caller says of
// which entity and keys its error is.
func (tx *Tx) insertEvents(ctx context.Context, msgs []outgoing) error {
	switch tx.ob.dialect {
	case SQLite:
		return tx.insertOneByOne(ctx, msgs)
	case MySQL:
		return tx.insertInRows(ctx, msgs)
	}
	for len(msgs) > 0 {
		n, err := tx.insertSome(ctx, msgs)
		if err != nil {
			return err
		}
		msgs = msgs[n:]
	}
	return nil
}

// insertMessages writes the rows of published messages.
func (tx *Tx) insertMessages(ctx context.Context, msgs []outgoing) error {
	if trace := tracing.Append(ctx, nil); trace != nil {
		for i := range msgs {
			if m := &msgs[i]; !m.traced {
				m.metadata, m.traced = m.metadata[:len(m.metadata)-1]+string(trace)+"}", true
			}
		}
	}
	insert := tx.insertOneByOne
	switch tx.ob.dialect {
	case Postgres:
		insert = tx.insertTogether
	case MySQL:
		insert = tx.insertInRows
	}
	if err := tx.note(insert(ctx, msgs)); err != nil {
		return fmt.Errorf("outbox: publish %d messages, the first on %s: %w", len(msgs), msgs[0].topic, withRemedy(err))
	}
	return nil
}

// maxInsert bounds the bytes of one INSERT's parameters, and with them the memory
// that a flush takes here and in the server.
const maxInsert = 64 << 20

// insertSome inserts the first of the events on PostgreSQL and returns how many. Their
// bodies are JSON, and so text without the separator.
func (tx *Tx) insertSome(ctx context.Context, msgs []outgoing) (int, error) {
	size, n := 0, 0
	for n < len(msgs) && (n == 0 || size+len(msgs[n].payload) <= maxInsert) {
		size += len(msgs[n].payload) + 1
		n++
	}
	const separator = 0x1e // chr(30)
	topics, keys := make([]string, n), make([]string, n)
	payloads, metadata := make([]byte, 0, size), []byte(nil)
	for i, m := range msgs[:n] {
		if i > 0 {
			payloads, metadata = append(payloads, separator), append(metadata, separator)
		}
		topics[i], keys[i] = m.topic, m.key
		payloads, metadata = append(payloads, m.payload...), append(metadata, m.metadata...)
	}
	_, err := tx.ExecContext(ctx, dialect.PostgresInsertOutbox, Postgres.Texts(topics), Postgres.Texts(keys), string(payloads), string(metadata))
	return n, err
}

// insertTogether inserts messages on PostgreSQL. Their bodies may be any bytes.
func (tx *Tx) insertTogether(ctx context.Context, msgs []outgoing) error {
	var columns [4][]string
	for _, m := range msgs {
		for i, text := range []string{m.topic, m.key, hex.EncodeToString(m.payload), m.metadata} {
			columns[i] = append(columns[i], text)
		}
	}
	_, err := tx.tx.ExecContext(ctx, dialect.PostgresPublish,
		Postgres.Texts(columns[0]), Postgres.Texts(columns[1]), Postgres.Texts(columns[2]), Postgres.Texts(columns[3]))
	return err
}

// insertOneByOne inserts messages on SQLite.
func (tx *Tx) insertOneByOne(ctx context.Context, msgs []outgoing) error {
	insert, err := tx.tx.PrepareContext(ctx, dialect.SQLiteInsertOutbox)
	if err != nil {
		return err
	}
	defer func() { _ = insert.Close() }()
	for _, m := range msgs {
		if m.payload == nil {
			m.payload = []byte{} // the column is not null
		}
		if _, err := insert.ExecContext(ctx, m.topic, m.key, m.payload, m.metadata); err != nil {
			return err
		}
	}
	return nil
}

// Bounds of one INSERT: MySQL takes 65535 parameters, and as many bytes as its
// max_allowed_packet says, 16 MiB or more unless configured otherwise.
const (
	maxMySQLRows  = 1000
	maxMySQLBytes = 4 << 20
)

// insertInRows inserts messages on MySQL in their order, many with each statement.
// Their ids grow in it, and as each key's row is locked, in the order of the key's commits.
func (tx *Tx) insertInRows(ctx context.Context, msgs []outgoing) error {
	for len(msgs) > 0 {
		var args []any
		size, n := 0, 0
		for n < len(msgs) && n < maxMySQLRows && (n == 0 || size+len(msgs[n].payload) <= maxMySQLBytes) {
			m := msgs[n]
			if m.payload == nil {
				m.payload = []byte{} // the column is not null
			}
			args = append(args, m.topic, m.key, m.payload, m.metadata)
			size += len(m.payload)
			n++
		}
		if _, err := tx.tx.ExecContext(ctx, dialect.MySQLRows(dialect.MySQLInsertOutbox, n), args...); err != nil {
			return err
		}
		msgs = msgs[n:]
	}
	return nil
}
