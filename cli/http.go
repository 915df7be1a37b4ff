package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-go/lockstep/metrics"
)

// health is what run and consume tell the world about themselves.
type health struct {
	address string        // empty: nothing
	limit   time.Duration // without progress
}

const (
	flagHTTP    = "http"
	flagStalled = "stalled-after"

	// lookEvery is how often the relay counts its outbox when it is asked to tell.
	lookEvery = 5 * time.Second
)

func (h *health) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&h.address, flagHTTP, "", "`address` that serves /healthz, /readyz and /metrics, such as 127.0.0.1:9464 (default: none)")
	cmd.Flags().DurationVar(&h.limit, flagStalled, time.Minute, "`time` without progress after which /healthz says no")
}

func (h *health) check() error {
	if h.address == "" {
		return nil
	}
	_, port, err := net.SplitHostPort(h.address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		err = misusef("--%s is %q: use host:port, such as 127.0.0.1:9464", flagHTTP, h.address)
	}
	return errors.Join(err, atLeast(flagStalled, h.limit, time.Second))
}

// serve answers until the returned function is called.
func (h *health) serve(ctx context.Context, log *slog.Logger, source metrics.Source) (stop func(), err error) {
	if h.address == "" {
		return func() {}, nil
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", h.address)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flagHTTP, err)
	}
	server := &http.Server{
		Handler: metrics.Handler(source), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Error("health and metrics are not served any more", "error", err)
		}
	}()
	log.Info("serving health and metrics", "address", listener.Addr().String())
	return func() {
		_ = server.Close() // whoever asks now is too late
		<-ended
	}, nil
}
