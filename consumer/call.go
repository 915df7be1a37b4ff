package consumer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// PanicError says that a handler panicked. It costs the event an attempt, like
// any other error; the stack goes into the dead letter's header, shortened.
type PanicError struct {
	Value any    // what the handler panicked with
	Stack []byte // of its goroutine
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.Value, e.Stack) }

// Unwrap returns the value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

var errExited = errors.New("consumer: the handler ended its goroutine")

// call runs a handler, contains what it does, and waits until it has returned,
// also beyond its time. Only the end of run, which is Run's with its drain, ends
// that waiting.
func (x *inbox) call(run, ctx context.Context, in *incoming, tx Tx, kind Kind) error {
	done := make(chan error, 1)
	go func() {
		err := errExited // unless it returns
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("consumer: %s: %w", in, &PanicError{v, debug.Stack()})
			}
			done <- err
		}()
		err = in.to.entity.handler.call(in.inSpan(ctx), tx, in, kind)
	}()
	select {
	case err := <-done:
		return x.judge(ctx, in, err)
	case <-ctx.Done():
	}
	patience := time.NewTimer(goesOn)
	defer patience.Stop()
	select {
	case err := <-done:
		return x.judge(ctx, in, err)
	case <-patience.C:
		x.log.Warn("a handler goes on although its time is up: its key and a worker wait for it", logEntity, in.String())
	}
	select {
	case err := <-done:
		return x.judge(ctx, in, err)
	case <-run.Done():
		return fmt.Errorf("consumer: %s: its handler does not return", in)
	}
}

// judge counts what a handler returned, and says so where it was too late. What
// a handler without a transaction has done in the end is done.
func (x *inbox) judge(ctx context.Context, in *incoming, err error) error {
	if panicked := (*PanicError)(nil); errors.As(err, &panicked) {
		x.stats.add(func(s *Stats) { s.Panics++ })
	}
	if errors.Is(context.Cause(ctx), errLate) {
		x.stats.add(func(s *Stats) { s.Late++ })
		if err != nil || !in.to.entity.handler.noDB {
			return x.late(in, err)
		}
	}
	return err
}
