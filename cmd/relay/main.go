// Command relay forwards a transactional outbox to a broker, and does whatever
// else a master or a replica needs from the outside: see `relay help`.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/lockstep-go/lockstep/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(cli.Main(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
