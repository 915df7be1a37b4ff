package consumer

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// Special values of MaxRetries.
const (
	// RetryForever never gives a message up.
	RetryForever = -1
	// NoRetries makes a message that fails once a dead letter.
	NoRetries = -2
)

// policy says what becomes of an entity's messages that fail, and which SYNCs
// it takes. Its fields are those of [Table] and [HandlerOptions].
type policy struct {
	maxRetries      int
	retryDelay      time.Duration
	retryIf         func(attempt int, err error) bool
	retryDelayFor   func(attempt int, err error) time.Duration
	onlyDirectSyncs bool
}

func (p *policy) setDefaults() {
	p.maxRetries = cmp.Or(p.maxRetries, defaultMaxRetries)
	p.retryDelay = cmp.Or(p.retryDelay, defaultRetryDelay)
}

func (p *policy) validate(fault func(format string, args ...any)) {
	if p.maxRetries < NoRetries {
		fault("MaxRetries is %d; zero means %d, and there are NoRetries and RetryForever", p.maxRetries, defaultMaxRetries)
	}
	if p.retryDelay < 0 {
		fault("RetryDelay is %s; zero means %s", p.retryDelay, defaultRetryDelay)
	}
	if p.retryIf != nil && p.maxRetries != 0 {
		fault("MaxRetries and RetryIf are both set: leave one out")
	}
	if p.retryDelayFor != nil && p.retryDelay != 0 {
		fault("RetryDelay and RetryDelayFor are both set: leave one out")
	}
}

// life is how long a message may be tried again, as far as that is known.
func (p *policy) life() time.Duration {
	if p.retryIf != nil || p.retryDelayFor != nil || p.maxRetries < 0 {
		return 0
	}
	const limit = 100 * 365 * 24 * time.Hour // no overflow
	if n := time.Duration(p.maxRetries); n <= limit/max(p.retryDelay, 1) {
		return n * p.retryDelay
	}
	return limit
}

// fate is what a policy says about a failed attempt: to try again after the
// delay or, when there is a reason, to give up.
type fate struct {
	delay  time.Duration
	reason string // of the dead letter; empty means another attempt
}

// decide is asked after each failed attempt, which are counted from 1.
func (p *policy) decide(attempt int, err error) (d fate) {
	defer func() {
		if v := recover(); v != nil { // the policy's functions are the user's
			d = fate{delay: defaultRetryDelay}
			if attempt > defaultMaxRetries {
				d.reason = reasonRetries
			}
		}
	}()
	if permanent := (*permanentError)(nil); errors.As(err, &permanent) {
		return fate{reason: reasonPermanent}
	}
	again := p.maxRetries == RetryForever || attempt <= max(p.maxRetries, 0)
	if p.retryIf != nil {
		again = p.retryIf(attempt, err)
	}
	if !again {
		return fate{reason: reasonRetries}
	}
	delay := p.retryDelay
	after := (*retryAfterError)(nil)
	switch {
	case errors.As(err, &after):
		delay = after.delay
	case p.retryDelayFor != nil:
		delay = p.retryDelayFor(attempt, err)
	}
	return fate{delay: min(max(delay, 0), maxRetryDelay)}
}

// maxRetryDelay is a delay that every broker takes.
const maxRetryDelay = 30 * 24 * time.Hour

// Permanent wraps a handler's error to say that no other attempt can help: the
// message becomes a dead letter at once. Nil stays nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// RetryAfter wraps a handler's error to say when the next attempt is to be
// made, whatever the policy's delay is; 30 days at most. It counts as an
// attempt like any other. Nil stays nil; a negative time means at once.
func RetryAfter(d time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &retryAfterError{max(d, 0), err}
}

type retryAfterError struct {
	delay time.Duration
	err   error
}

func (e *retryAfterError) Error() string { return fmt.Sprintf("%v (again after %s)", e.err, e.delay) }
func (e *retryAfterError) Unwrap() error { return e.err }
