// Package orm shows how events are recorded in transactions that something other
// than Lockstep begins and commits: database/sql itself, sqlx, GORM, bun, the
// code that sqlc generates, and any of them through pgx's stdlib adapter.
//
// Each example renames an account and records it. They differ only in how one
// gets at the *sql.Tx for [outbox.Outbox.Wrap], and in who commits: call Tx.Flush
// before a commit that is not Tx.Commit. The pool comes from
// [outbox.Outbox.Open], so a flush that is forgotten is an error.
//
// It is a module of its own, to keep these libraries out of Lockstep's.
package orm
