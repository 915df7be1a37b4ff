package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/lockstep-go/lockstep/migrations"
	"github.com/lockstep-go/lockstep/outbox"
)

// exampleDatabase returns a migrated database with a table of accounts, and the
// function that removes it.
func exampleDatabase(ctx context.Context, ob *outbox.Outbox) (db *sql.DB, remove func()) {
	dir, err := os.MkdirTemp("", "lockstep-example")
	if err != nil {
		panic(err)
	}
	db, err = ob.Open("sqlite", filepath.Join(dir, "example.db"))
	if err != nil {
		panic(err)
	}
	_, migrated := migrations.Up(ctx, db, outbox.SQLite)
	_, created := db.ExecContext(ctx, `CREATE TABLE accounts (id INTEGER PRIMARY KEY, name TEXT NOT NULL,
		cqrs_revision INTEGER NOT NULL DEFAULT 0, cqrs_updated TEXT NOT NULL DEFAULT '')`)
	if err := errors.Join(migrated, created); err != nil {
		panic(err)
	}
	return db, func() {
		_ = db.Close()
		_ = os.RemoveAll(dir)
	}
}

func exampleOutbox() *outbox.Outbox {
	ob, err := outbox.New(outbox.Config{Dialect: outbox.SQLite, Entities: []outbox.Entity{{ID: "account", Table: "accounts"}}})
	if err != nil {
		panic(err)
	}
	return ob
}

func printOutbox(ctx context.Context, db *sql.DB) {
	rows, err := db.QueryContext(ctx, `SELECT topic, key, payload ->> '$.instance_data.name' FROM outbox ORDER BY id`)
	if err != nil {
		panic(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var topic, key string
		var name sql.NullString
		if err := rows.Scan(&topic, &key, &name); err != nil {
			panic(err)
		}
		fmt.Println(topic, key, name.String)
	}
	if err := rows.Err(); err != nil {
		panic(err)
	}
}

func ExampleOutbox_InTx() {
	ctx, ob := context.Background(), exampleOutbox()
	db, remove := exampleDatabase(ctx, ob)
	defer remove()
	err := ob.InTx(ctx, db, func(ctx context.Context, tx *outbox.Tx) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO accounts (id, name) VALUES (42, 'Ada')`); err != nil {
			return err
		}
		if err := tx.Saved("account", 42); err != nil {
			return err
		}
		return tx.Publish("mail", message.NewMessage("", []byte(`{"to": "Ada"}`)))
	})
	fmt.Println(err)
	printOutbox(ctx, db)
	// Output:
	// <nil>
	// account 42 Ada
	// mail
}

// A transaction that was begun elsewhere, on a pool that notices a forgotten
// flush.
func ExampleOutbox_Wrap() {
	ctx, ob := context.Background(), exampleOutbox()
	db, remove := exampleDatabase(ctx, ob)
	defer remove()
	insert := func(id int, name string) (*sql.Tx, *outbox.Tx) {
		sqlTx, err := db.BeginTx(ctx, nil)
		if err != nil {
			panic(err)
		}
		tx := ob.Wrap(sqlTx)
		_, inserted := sqlTx.ExecContext(ctx, `INSERT INTO accounts (id, name) VALUES (?, ?)`, id, name)
		if err := errors.Join(inserted, tx.Saved("account", id)); err != nil {
			panic(err)
		}
		return sqlTx, tx
	}
	_, ada := insert(1, "Ada")
	fmt.Println(ada.Commit(ctx)) // flushes

	sqlTx, _ := insert(2, "Bob")
	fmt.Println(errors.Is(sqlTx.Commit(), outbox.ErrNotFlushed))

	sqlTx, cleo := insert(3, "Cleo")
	fmt.Println(cleo.Flush(ctx), sqlTx.Commit())
	printOutbox(ctx, db)
	// Output:
	// <nil>
	// true
	// <nil> <nil>
	// account 1 Ada
	// account 3 Cleo
}
