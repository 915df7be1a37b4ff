package jetstream

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// routesLife is how long the list of bindings is believed.
	routesLife = 30 * time.Second
	// routesTimeout bounds its fetching, lest an account that may not list
	// consumers stall the publisher.
	routesTimeout = 2 * time.Second
	// listPage is how many consumers the server lists at a time.
	listPage = 256
)

// routes are the bindings of the stream at one time. It is immutable.
type routes struct {
	since     time.Time
	all       bool                // cannot be known: everything counts as bound
	exact     map[string]struct{} // subjects
	wildcards []string            // of consumers that others have made
	names     []string            // of all consumers, in the server's order
}

func (r *routes) has(subject string) bool {
	if r.all {
		return true
	}
	if _, ok := r.exact[subject]; ok {
		return true
	}
	for _, w := range r.wildcards {
		if server.SubjectsCollide(w, subject) {
			return true
		}
	}
	return false
}

// routed reports whether a queue is bound to the subject. That it is may be
// told from the list; that it is not is asked anew each time, because another
// process may have bound one.
func (b *Broker) routed(ctx context.Context, s *session, subject string) bool {
	if r := s.routes.Load(); r != nil && time.Since(r.since) < routesLife && r.has(subject) {
		return true
	}
	r := b.fetchRoutes(ctx, s, subject)
	if r.all && ctx.Err() != nil {
		return true // the caller gave up, which says nothing of the server
	}
	s.routes.Store(r)
	return r.has(subject)
}

// fetchRoutes lists the bindings, to see whether the subject is bound. The server lists by
// name, a page at a time. When a consumer goes between two pages, such as the lock on a
// queue's bindings, those behind it move up, and the first of the next page is in neither.
// So what may be more than a page lacks a subject only when it is the same twice.
func (b *Broker) fetchRoutes(ctx context.Context, s *session, subject string) *routes {
	ctx, cancel := context.WithTimeout(ctx, min(routesTimeout, b.cfg.ConfirmTimeout))
	defer cancel()
	for last := (&routes{}); ; {
		r := b.listRoutes(ctx, s)
		if r.has(subject) || len(r.names) < listPage || slices.Equal(r.names, last.names) {
			return r
		}
		last = r
	}
}

func (b *Broker) listRoutes(ctx context.Context, s *session) *routes {
	r := &routes{since: time.Now(), exact: map[string]struct{}{}}
	list := s.stream.ListConsumers(ctx)
	for info := range list.Info() {
		r.names = append(r.names, info.Name)
		filters := filtersOf(info.Config)
		if len(filters) == 0 {
			filters = []string{">"}
		}
		for _, f := range filters {
			if strings.ContainsAny(f, "*>") {
				r.wildcards = append(r.wildcards, f)
			} else {
				r.exact[f] = struct{}{}
			}
		}
	}
	if err := list.Err(); err != nil {
		b.log.Warn("jetstream: bindings cannot be listed: every topic counts as bound for now", "err", err)
		r.all = true
	}
	return r
}
