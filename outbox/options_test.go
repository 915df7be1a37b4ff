package outbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/outbox"
)

// with is an outbox of a configuration.
func (m master) with(t *testing.T, cfg outbox.Config) master {
	t.Helper()
	cfg.Dialect = m.dialect
	ob, err := outbox.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := ob.Check(t.Context(), m.DB); err != nil {
		t.Fatal(err)
	}
	m.ob = ob
	return m
}

// account is a master with one entity, account, that has these options.
func (m master) account(t *testing.T, e outbox.Entity) master {
	t.Helper()
	e.ID, e.Table = "account", "accounts"
	return m.with(t, outbox.Config{Entities: []outbox.Entity{e}})
}

// events are the outbox's, decoded.
func (m master) events(t *testing.T) (all []event.Event) {
	t.Helper()
	for _, row := range m.rows(t) {
		if !json.Valid(row.payload) {
			t.Errorf("not JSON: %s", row.payload)
		}
		e, err := event.Decode(row.payload)
		if err != nil {
			t.Fatalf("%s: %v", row.payload, err)
		}
		all = append(all, e)
	}
	return all
}

// data is an event's data without its version, which it has to have at the end.
func data(t *testing.T, e event.Event) string {
	t.Helper()
	body, version, found := strings.Cut(string(e.Data), `"cqrs_revision":`)
	if !found || !strings.Contains(version, `,"cqrs_updated":"20`) {
		t.Errorf("data without a version at its end: %s", e.Data)
	}
	return strings.TrimSuffix(body, ",")
}

// save runs a statement and marks keys.
func (m master) save(t *testing.T, query string, keys ...any) {
	t.Helper()
	m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
		return errors.Join(exec(ctx, tx, query), tx.Saved("account", keys...))
	})
}

func TestMutedCountsAndSendsNothing(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		loud, muted := m, m.account(t, outbox.Entity{Muted: true, Tracked: []string{"name"}, DeleteData: noData})
		muted.save(t, `INSERT INTO accounts (id, name) VALUES (1, 'a'), (2, 'b')`, 1, 2)
		muted.save(t, `UPDATE accounts SET name = 'c'`, 1)
		muted.inTx(t, func(ctx context.Context, tx *outbox.Tx) error { return tx.Delete(ctx, "account", 2) })
		m.wantSent(t)
		m.wantAccounts(t, 1)
		err := muted.ob.InTx(t.Context(), m.DB, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("account", 9) })
		if missing := (*outbox.NotFoundError)(nil); !errors.As(err, &missing) {
			t.Errorf("a missing key of a muted entity: %v, want a NotFoundError", err)
		}
		loud.save(t, `INSERT INTO accounts (id, name) VALUES (2, 'again')`, 1, 2)
		m.wantSent(t, sent{"account", "1", event.Save, 3, "c"}, sent{"account", "2", event.Save, 3, "again"})
	})
}

func noData(context.Context, *outbox.Tx, []outbox.Instance) (map[string]any, error) { return nil, nil }

func TestMetaOfEntitiesAndOfTheConfig(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		meta := func(name string) func(context.Context, outbox.Instance) (map[string]any, error) {
			return func(_ context.Context, row outbox.Instance) (map[string]any, error) {
				return map[string]any{"by": name, "data": row.Data, "previous": row.Previous, "signal": row.Signal, "revision": row.Revision, "key": row.Key}, nil
			}
		}
		m.exec(t, `CREATE TABLE others (id INTEGER PRIMARY KEY)`)
		m.addVersions(t, "others")
		m = m.with(t, outbox.Config{Meta: meta("all"), Entities: []outbox.Entity{
			{ID: "account", Table: "accounts", Fields: []string{"id", "name"}, Tracked: []string{"name"}, Meta: meta("own")},
			{ID: "other", Table: "others"},
		}})
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(exec(ctx, tx, `INSERT INTO others (id) VALUES (7)`), tx.Saved("other", 7),
				exec(ctx, tx, `INSERT INTO accounts (id, name) VALUES (1, 'a<b')`), tx.Saved("account", 1))
		})
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error { return tx.Delete(ctx, "account", 1) })
		for i, want := range []struct{ by, previous string }{{"all", `null`}, {"own", `{"name":null}`}, {"own", `null`}} {
			e := m.events(t)[i]
			have := map[string]json.RawMessage{}
			if err := json.Unmarshal(e.Meta, &have); err != nil {
				t.Fatalf("meta %s: %v", e.Meta, err)
			}
			if string(have["data"]) != string(e.Data) || string(have["previous"]) != want.previous ||
				string(have["by"]) != `"`+want.by+`"` || string(have["signal"]) != `"`+string(e.Signal)+`"` {
				t.Errorf("event %d: meta %s\nof %s, want previous %s by %s", i, e.Meta, e.Data, want.previous, want.by)
			}
		}
	})
}

func TestCorrelationID(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse("1a10c440-0728-58e6-99ee-92dc7dc35e29")
	type key struct{}
	onEach(t, func(t *testing.T, m master) {
		e := outbox.Entity{ID: "account", Table: "accounts"}
		from := func(ctx context.Context) any { return ctx.Value(key{}) }
		direct := m.with(t, outbox.Config{Entities: []outbox.Entity{e}, CorrelationID: from})
		e.Tracked = []string{"name"}
		here := m.with(t, outbox.Config{Entities: []outbox.Entity{e}, CorrelationID: from})
		m.exec(t, `INSERT INTO accounts (id, name) VALUES (1, 'a'), (2, 'b')`)
		for value, want := range map[any]string{
			nil: `null`, id: `"` + id.String() + `"`, 7: `7`, `a"b\`: `"a\"b\\"`,
			time.Date(2026, 1, 2, 3, 4, 5, 6000, time.FixedZone("", 3600)): `"2026-01-02 02:04:05.000006+00:00"`,
		} {
			m.exec(t, `DELETE FROM outbox`)
			ctx := context.WithValue(t.Context(), key{}, value)
			for _, m := range []master{direct, here} {
				for _, keys := range [][]any{{1}, {1, 2}} {
					err := m.ob.InTx(ctx, m.DB, func(ctx context.Context, tx *outbox.Tx) error {
						return errors.Join(tx.Track(ctx, "account", keys...), tx.Saved("account", keys...))
					})
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := direct.ob.Sync(ctx, m.DB, "account", outbox.All, ""); err != nil {
				t.Fatal(err)
			}
			all := m.events(t)
			if len(all) != 8 {
				t.Fatalf("%d events, want 8", len(all))
			}
			for _, e := range all {
				if have := string(e.CorrelationID); have != want && (want != "null" || have != "") {
					t.Errorf("correlation id of %v is %s, want %s", value, have, want)
				}
			}
		}
		bad := m.with(t, outbox.Config{Entities: []outbox.Entity{e}, CorrelationID: func(context.Context) any { return func() {} }})
		err := bad.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
			return errors.Join(tx.Track(ctx, "account", 1), tx.Saved("account", 1))
		})
		if err == nil || !strings.Contains(err.Error(), "Config.CorrelationID") {
			t.Errorf("a correlation id that JSON cannot carry: %v", err)
		}
	})
}

func TestDeleteData(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		var calls int
		m = m.account(t, outbox.Entity{
			DeleteData: func(ctx context.Context, tx *outbox.Tx, rows []outbox.Instance) (map[string]any, error) {
				calls++
				made := map[string]any{}
				for _, row := range rows {
					var there int
					err := tx.QueryRowContext(ctx, `SELECT count(*) FROM accounts WHERE id = `+row.Key).Scan(&there)
					if err != nil || there != 1 || !strings.Contains(string(row.Data), `"name":`) {
						t.Errorf("row %s is gone before DeleteData was called: %d rows, %v", row.Data, there, err)
					}
					if row.Key != "3" {
						made[row.Key] = map[string]any{"reason": "closed " + row.Key}
					}
				}
				return made, nil
			},
		})
		m.exec(t, `INSERT INTO accounts (id, name) VALUES (1, 'a'), (2, 'b'), (3, 'c')`)
		m.inTx(t, func(ctx context.Context, tx *outbox.Tx) error { return tx.Delete(ctx, "account", 2, 1, 3) })
		m.wantAccounts(t, 0)
		var have []string
		for _, e := range m.events(t) {
			have = append(have, string(e.Signal)+string(e.Data[:strings.Index(string(e.Data), `"cqrs_updated`)]))
		}
		want := []string{
			`DELETE{"id":2,"custom":{"reason":"closed 2"},"cqrs_revision":1,`,
			`DELETE{"id":1,"custom":{"reason":"closed 1"},"cqrs_revision":1,`, `DELETE{"id":3,"cqrs_revision":1,`,
		}
		if diff := cmp.Diff(want, have); diff != "" || calls != 1 {
			t.Errorf("%d calls, events (-want +have):\n%s", calls, diff)
		}
		m.exec(t, `DELETE FROM outbox`)
		m.exec(t, `INSERT INTO accounts (id, name) VALUES (1, 'a')`)
		m.save(t, `UPDATE accounts SET name = 'back'`, 1)
		m.wantSent(t, sent{"account", "1", event.Save, 2, "back"})
	})
}

func TestDecimalsAndNonFinite(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		postgres := m.dialect == outbox.Postgres
		declared, column, nan := "amount NUMERIC(30,10), share REAL", "share", `9e999`
		switch m.dialect {
		case outbox.Postgres:
			declared, nan = declared+", amounts NUMERIC[]", `'NaN'`
		case outbox.MySQL: // has no NaN, but days that are none
			declared, column, nan = declared+", day DATE", "day", `'0000-00-00'`
		}
		m.exec(t, `CREATE TABLE sums (id INTEGER PRIMARY KEY, `+declared+`)`)
		m.addVersions(t, "sums")
		e := outbox.Entity{ID: "sum", Table: "sums", Decimals: outbox.DecimalString, NonFinite: outbox.NonFiniteError}
		m = m.with(t, outbox.Config{Entities: []outbox.Entity{e}})
		amount, want := `1.5`, `{"id":1,"amount":"1.5","share":1.5`
		if postgres {
			m.exec(t, `INSERT INTO sums VALUES (1, 12345678901234567890.123456789, 1.5, '{1.50,2}')`)
			want = `{"id":1,"amount":"12345678901234567890.1234567890","share":1.5,"amounts":["1.50","2"]`
		} else {
			if m.dialect == outbox.MySQL {
				amount, want = `12345678901234567890.123456789`, `{"id":1,"amount":"12345678901234567890.1234567890","share":1.5,"day":null`
			}
			m.exec(t, `INSERT INTO sums (id, amount, share) VALUES (1, `+amount+`, 1.5)`)
		}
		m.inTx(t, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("sum", 1) })
		if have := data(t, m.events(t)[0]); have != want {
			t.Errorf("data %s, want %s", have, want)
		}
		m.exec(t, `INSERT INTO sums (id, share) SELECT id + 1, share FROM sums`)
		m.exec(t, `UPDATE sums SET `+column+` = `+nan+` WHERE id = 2`)
		err := m.ob.InTx(t.Context(), m.DB, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("sum", 1, 2) })
		var row *outbox.RowError
		if !errors.As(err, &row) || row.Entity != "sum" || row.Column != column || cmp.Diff([]string{"2"}, row.Keys) != "" {
			t.Errorf("a NaN: %v, want a RowError that names sum, 2 and %s", err, column)
		}
		if have := len(m.rows(t)); have != 1 {
			t.Errorf("%d events, want the one from before", have)
		}
	})
}

func TestNonFiniteInArrays(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, m master) {
		if m.dialect != outbox.Postgres {
			return // has no arrays
		}
		m.exec(t, `CREATE TABLE things (id INTEGER PRIMARY KEY, a DOUBLE PRECISION[], b NUMERIC[], c TIMESTAMPTZ[], d DATE[])`)
		m.addVersions(t, "things")
		m.ob = m.outbox(t, outbox.Entity{ID: "thing", Table: "things", NonFinite: outbox.NonFiniteError})
		m.exec(t, `INSERT INTO things VALUES (1, '{{1,NULL},{2,3}}', '{1.5}', '{2026-01-02 03:04:05+00}', NULL)`)
		m.inTx(t, func(_ context.Context, tx *outbox.Tx) error { return tx.Saved("thing", 1) })
		for column, value := range map[string]string{"a": "{{1,2},{NaN,3}}", "b": "{-Infinity}", "c": "{infinity}", "d": "{2026-01-02,-infinity}"} {
			err := m.ob.InTx(t.Context(), m.DB, func(ctx context.Context, tx *outbox.Tx) error {
				return errors.Join(exec(ctx, tx, `UPDATE things SET `+column+` = '`+value+`'`), tx.Saved("thing", 1))
			})
			if row := (*outbox.RowError)(nil); !errors.As(err, &row) || row.Column != column {
				t.Errorf("%s: %v, want a RowError that names it", column, err)
			}
		}
	})
}
