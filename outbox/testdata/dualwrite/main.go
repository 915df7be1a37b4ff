// Command dualwrite must not compile: it writes outside of a transaction.
package main

import (
	"database/sql"

	"github.com/lockstep-go/lockstep/outbox"
)

func main() {
	var db *sql.DB
	var ob *outbox.Outbox
	ob.Wrap(db)
}
