package outbox_test

import (
	"context"
	"errors"
	"testing"

	"go.opentelemetry.io/otel/trace"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/outbox"
)

const spanHeader = "00-0102030405060708090a0b0c0d0e0f10-0102030405060708-01"

// inSpan returns a context in a span of another service.
func inSpan(t *testing.T) context.Context {
	t.Helper()
	state, err := trace.ParseTraceState("vendor=a b'c")
	if err != nil {
		t.Fatal(err)
	}
	return trace.ContextWithSpanContext(t.Context(), trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, SpanID: trace.SpanID{1, 2, 3, 4, 5, 6, 7, 8},
		TraceFlags: trace.FlagsSampled, TraceState: state,
	}))
}

// Every way into the outbox takes the writer's span along, and takes nothing along
// outside of spans.
func TestSpanTravelsWithTheEvent(t *testing.T) {
	t.Parallel()
	insert := func(ctx context.Context, tx *outbox.Tx) error {
		return exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'a'), (2, 'b')`)
	}
	serialize := func(_ context.Context, _ *outbox.Tx, all []outbox.Instance) (map[string]any, error) {
		made := map[string]any{}
		for _, one := range all {
			made[one.Key] = map[string]any{"id": one.Key}
		}
		return made, nil
	}
	for name, way := range map[string]struct {
		entity outbox.Entity
		write  func(ctx context.Context, m master) error
		events int
	}{
		"one key, with the commit": {events: 1, write: func(ctx context.Context, m master) error {
			return m.ob.InTx(ctx, m.DB, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(insert(ctx, tx), tx.Saved("account", 1))
			})
		}},
		"one key, flushed": {events: 1, write: func(ctx context.Context, m master) error {
			return m.ob.InTx(ctx, m.DB, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(insert(ctx, tx), tx.Saved("account", 1), tx.Flush(ctx))
			})
		}},
		"many keys, a deletion": {events: 3, write: func(ctx context.Context, m master) error {
			return m.ob.InTx(ctx, m.DB, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(insert(ctx, tx), tx.Saved("account", 1, 2), tx.Flush(ctx), tx.Delete(ctx, "account", 1))
			})
		}},
		"with a condition": {entity: outbox.Entity{Where: "id < 10"}, events: 2, write: func(ctx context.Context, m master) error {
			return m.ob.InTx(ctx, m.DB, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(insert(ctx, tx), tx.Saved("account", 1, 2))
			})
		}},
		"made here": {entity: outbox.Entity{Serialize: serialize}, events: 2, write: func(ctx context.Context, m master) error {
			return m.ob.InTx(ctx, m.DB, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(insert(ctx, tx), tx.Saved("account", 1, 2))
			})
		}},
		"muted": {entity: outbox.Entity{Muted: true}, events: 0, write: func(ctx context.Context, m master) error {
			return m.ob.InTx(ctx, m.DB, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(insert(ctx, tx), tx.Saved("account", 1, 2))
			})
		}},
		"another's transaction": {events: 1, write: func(ctx context.Context, m master) error {
			sqlTx, err := m.BeginTx(ctx, nil)
			if err != nil {
				return err
			}
			tx := m.ob.Wrap(sqlTx)
			return errors.Join(insert(ctx, tx), tx.Saved("account", 1), tx.Commit(ctx))
		}},
		"a message": {events: 2, write: func(ctx context.Context, m master) error {
			return m.ob.InTx(ctx, m.DB, func(_ context.Context, tx *outbox.Tx) error {
				return errors.Join(tx.Publish("plain", watermillMessage("", "{}")), tx.Publish("plain", watermillMessage("", "{}", "a", "b")))
			})
		}},
		"a SYNC": {events: 2, write: func(ctx context.Context, m master) error {
			_, err := m.ExecContext(ctx, `INSERT INTO accounts (id, name) VALUES (1, 'a'), (2, 'b')`)
			_, synced := m.ob.Sync(ctx, m.DB, "account", outbox.All, "")
			return errors.Join(err, synced)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onEach(t, func(t *testing.T, m master) {
				entity := way.entity
				entity.ID, entity.Table = "account", "accounts"
				for _, in := range []struct {
					ctx           context.Context
					parent, state string
				}{{inSpan(t), spanHeader, "vendor=a b'c"}, {t.Context(), "", ""}} {
					m.exec(t, `DELETE FROM accounts`)
					m.exec(t, `DELETE FROM outbox`)
					m.ob = m.outbox(t, entity)
					if err := way.write(in.ctx, m); err != nil {
						t.Fatal(err)
					}
					rows := m.published(t)
					if len(rows) != way.events {
						t.Errorf("%d rows, want %d", len(rows), way.events)
					}
					for _, r := range rows {
						if r.Metadata[event.HeaderTraceParent] != in.parent || r.Metadata[event.HeaderTraceState] != in.state || len(r.Metadata[event.HeaderEventID]) != 36 {
							t.Errorf("headers %v, want the span %q %q and an event id", r.Metadata, in.parent, in.state)
						}
					}
				}
			})
		})
	}
}

// A message that names a span of its own keeps it.
func TestPublishedMessageKeepsItsSpan(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		const own = "00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-00"
		err := m.ob.InTx(inSpan(t), m.DB, func(_ context.Context, tx *outbox.Tx) error {
			return tx.Publish("plain", watermillMessage("", "{}", event.HeaderTraceParent, own))
		})
		if err != nil {
			t.Fatal(err)
		}
		if r := m.published(t); len(r) != 1 || r[0].Metadata[event.HeaderTraceParent] != own {
			t.Errorf("rows %+v, want one with the span %s", r, own)
		}
	})
}
