package outbox_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/lockstep-go/lockstep/outbox"
)

// withLines represents orders with their lines: one query for all of a flush.
func withLines(ctx context.Context, tx *outbox.Tx, rows []outbox.Instance) (map[string]any, error) {
	type order struct {
		ID    json.Number `json:"id"`
		Lines []string    `json:"lines"`
	}
	orders, keys, marks := map[string]any{}, []any{}, []string{}
	for _, row := range rows {
		orders[row.Key] = &order{ID: json.Number(row.Key)}
		keys, marks = append(keys, row.Key), append(marks, "?")
	}
	lines, err := tx.QueryContext(ctx, `SELECT CAST(order_id AS TEXT), item FROM lines WHERE order_id IN (`+strings.Join(marks, ", ")+`) ORDER BY id`, keys...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = lines.Close() }()
	for lines.Next() {
		var of, item string
		if err := lines.Scan(&of, &item); err != nil {
			return nil, err
		}
		o := orders[of].(*order)
		o.Lines = append(o.Lines, item)
	}
	return orders, lines.Err()
}

// An order travels with its lines, which are read once for all orders of a flush.
func ExampleEntity_serialize() {
	ctx := context.Background()
	ob, err := outbox.New(outbox.Config{Dialect: outbox.SQLite, Entities: []outbox.Entity{
		{ID: "order", Table: "orders", Serialize: withLines},
	}})
	if err != nil {
		panic(err)
	}
	db, remove := exampleDatabase(ctx, ob)
	defer remove()
	for _, statement := range []string{
		`CREATE TABLE orders (id INTEGER PRIMARY KEY, cqrs_revision INTEGER NOT NULL DEFAULT 0, cqrs_updated TEXT NOT NULL DEFAULT '')`,
		`CREATE TABLE lines (id INTEGER PRIMARY KEY, order_id INTEGER, item TEXT)`,
	} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			panic(err)
		}
	}
	err = ob.InTx(ctx, db, func(ctx context.Context, tx *outbox.Tx) error {
		_, orders := tx.ExecContext(ctx, `INSERT INTO orders (id) VALUES (1), (2)`)
		_, lines := tx.ExecContext(ctx, `INSERT INTO lines (order_id, item) VALUES (1, 'tea'), (1, 'milk'), (2, 'salt')`)
		return errors.Join(orders, lines, tx.Saved("order", 1, 2))
	})
	if err != nil {
		panic(err)
	}
	printData(ctx, db)
	// Output:
	// {"id":1,"lines":["tea","milk"]}
	// {"id":2,"lines":["salt"]}
}

// printData prints the events' data without their version.
func printData(ctx context.Context, db *sql.DB) {
	rows, err := db.QueryContext(ctx, `SELECT json_remove(payload -> '$.instance_data', '$.cqrs_revision', '$.cqrs_updated') FROM outbox ORDER BY id`)
	if err != nil {
		panic(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var data string
		if err := rows.Scan(&data); err != nil {
			panic(err)
		}
		fmt.Println(data)
	}
	if err := rows.Err(); err != nil {
		panic(err)
	}
}
