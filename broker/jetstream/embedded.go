package jetstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// maxPayload is the largest message of the embedded server, which NATS
	// recommends as the limit. Its default would be 1 MiB.
	maxPayload = 8 << 20
	// startTimeout bounds the recovery of the files of an embedded server.
	startTimeout = time.Minute
)

// embedded is a NATS server inside the process that no socket leads to.
type embedded struct {
	srv    *server.Server
	unlock func()
}

func startEmbedded(ctx context.Context, t target, log *slog.Logger) (*embedded, error) {
	if err := os.MkdirAll(t.dir, 0o750); err != nil {
		return nil, fmt.Errorf("jetstream: embedded server: %w", err)
	}
	unlock, err := lockDir(t.dir)
	if err != nil {
		return nil, err
	}
	opts := &server.Options{
		ServerName:   "lockstep",
		DontListen:   true,
		JetStream:    true,
		StoreDir:     t.dir,
		MaxPayload:   maxPayload,
		NoSigs:       true,
		SyncAlways:   t.sync == 0,
		SyncInterval: t.sync,
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		unlock()
		return nil, fmt.Errorf("jetstream: embedded server: %w", err)
	}
	srv.SetLoggerV2(serverLog{log.With("component", "nats-server")}, false, false, false)
	e := &embedded{srv: srv, unlock: unlock}
	srv.Start()
	if err := e.ready(ctx); err != nil {
		e.stop()
		return nil, err
	}
	return e, nil
}

// ready waits until the server accepts connections and has recovered its files.
func (e *embedded) ready(ctx context.Context) error {
	for started := time.Now(); time.Since(started) < startTimeout; {
		if e.srv.ReadyForConnections(100 * time.Millisecond) {
			if !e.srv.JetStreamEnabled() {
				return errors.New("jetstream: embedded server: its files cannot be used, see the log")
			}
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("jetstream: embedded server: not ready: %w", context.Cause(ctx))
		}
	}
	return fmt.Errorf("jetstream: embedded server: not ready after %v", startTimeout)
}

// stop ends the server after it has written its state.
func (e *embedded) stop() {
	e.srv.Shutdown()
	e.srv.WaitForShutdown()
	e.unlock()
}

// serverLog hands the server's log on.
type serverLog struct{ log *slog.Logger }

func (l serverLog) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l serverLog) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l serverLog) Errorf(format string, v ...any)  { l.log.Error(fmt.Sprintf(format, v...)) }
func (l serverLog) Fatalf(format string, v ...any)  { l.log.Error(fmt.Sprintf(format, v...)) }
func (l serverLog) Debugf(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l serverLog) Tracef(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
