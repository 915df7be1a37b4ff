package relay

import (
	"context"
	"log/slog"
	"time"

	"github.com/lib/pq"
)

// Listen returns a channel for Config.Wake that receives when a transaction with
// outbox rows commits on the PostgreSQL database at dsn. It opens a connection
// of its own, reconnects by itself, and ends with ctx. The channel is never
// closed. The hint is lost through proxies that pool transactions; the relay
// then finds the rows by polling.
func Listen(ctx context.Context, dsn string, log *slog.Logger) <-chan struct{} {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	wake := make(chan struct{}, 1)
	listener := pq.NewListener(dsn, time.Second, time.Minute, func(_ pq.ListenerEventType, err error) {
		if err != nil {
			log.Debug("listening for writers", keyError, err)
		}
	})
	go func() {
		// Listen blocks until the first connection stands.
		if err := listener.Listen("lockstep_outbox"); err != nil {
			log.Debug("listening for writers", keyError, err)
		}
	}()
	go func() {
		defer func() { _ = listener.Close() }()
		for {
			select {
			case <-ctx.Done():
				return
			case <-listener.NotificationChannel():
			}
			select {
			case wake <- struct{}{}:
			default: // one hint is as good as two
			}
		}
	}()
	return wake
}
