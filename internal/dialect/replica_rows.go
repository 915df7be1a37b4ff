package dialect

import (
	"fmt"
	"strings"
)

// rowTexts are the templates of the statements by which MySQL and SQLite read and
// write rows of a replica table, several at a time. {rows} stands for as many
// groups of marks as there are rows, {among} for the condition that a row has one
// of so many keys.
type rowTexts struct {
	stored, tombstones, insert, overwrite, update, remove, bury, revive string
}

// RowSQL returns the text of the statements for a replica table on MySQL or
// SQLite. Parameters stand in the order of the rows, those of a row in the order
// that each method names.
type RowSQL struct {
	replica *Replica
	name    Name
	texts   *rowTexts
}

// Rows returns the texts of statements for the table. PostgreSQL has its own.
func (r *Replica) Rows(n Name) RowSQL {
	texts := &sqliteRows
	if n == MySQL {
		texts = &mysqlRows
	}
	return RowSQL{r, n, texts}
}

// Stored returns the query for the versions of the rows with these keys, which it
// locks where the database has such locks. Each result has the place of its key
// from 0 (on MySQL always 0), the key's columns, revision and time. Its parameters
// are the keys' values.
func (s RowSQL) Stored(rows int) string { return s.build(s.texts.stored, rows, nil) }

// Tombstones returns the query for key, revision and time of the tombstones of
// keys, whose texts are its parameters.
func (s RowSQL) Tombstones(rows int) string { return s.build(s.texts.tombstones, rows, nil) }

// Insert returns the statement that makes rows and fails when one is there. The
// parameters of a row are the key, the chosen columns in order, revision and time.
func (s RowSQL) Insert(where Where, rows int) string { return s.build(s.texts.insert, rows, where) }

// Overwrite returns the statement that changes rows which are there. It takes the
// parameters of Insert. On MySQL it is for tables that are Primary and not Watched.
func (s RowSQL) Overwrite(where Where, rows int) string {
	return s.build(s.texts.overwrite, rows, where)
}

// Update returns the statement that changes one row. Its parameters are the chosen
// columns in order, revision and time, and the key's values.
func (s RowSQL) Update(where Where) string { return s.build(s.texts.update, 1, where) }

// Remove returns the statement that deletes the rows with these keys, whose values
// are its parameters.
func (s RowSQL) Remove(rows int) string { return s.build(s.texts.remove, rows, nil) }

// Bury returns the statement that leaves or replaces tombstones. The parameters of
// each are the key's text, revision and time.
func (s RowSQL) Bury(rows int) string { return s.build(s.texts.bury, rows, nil) }

// Revive returns the statement that removes the tombstones of keys, whose texts
// are its parameters.
func (s RowSQL) Revive(rows int) string { return s.build(s.texts.revive, rows, nil) }

func (s RowSQL) build(text string, rows int, where Where) string {
	r, n := s.replica, s.name
	replacements := []string{
		"{table}", n.Quote(r.Table), "{replica}", n.QuoteText(r.Table), "{tombstones}", TombstoneTable,
		"{key}", r.eachKey(n, "%[1]s", ", "), "{t_key}", r.eachKey(n, "t.%[1]s", ", "), "{first}", n.QuoteColumn(r.Key.Name),
		"{is_key}", r.eachKey(n, "%[1]s = ?", " AND "), "{is_v}", r.eachKey(n, "t.%[1]s = v.k%[3]d", " AND "),
		"{v_columns}", r.eachKey(n, "k%[3]d", ", "), "{hint}", s.hint(),
	}
	for mark, list := range map[string]func(int) string{"{among}": s.among, "{marks}": marks, "{numbered}": s.numbered, "{tombs}": s.tombs} {
		if strings.Contains(text, mark) {
			replacements = append(replacements, mark, list(rows))
		}
	}
	if where != nil {
		columns := r.each(n, where, "%[2]s, ")
		row := "(?, " + strings.Repeat("?, ", strings.Count(r.each(n, where, "%[1]d,"), ",")) + "?, ?)"
		assign := "%[2]s = excluded.%[2]s, "
		if n == MySQL {
			assign = "%[2]s = VALUES(%[2]s), "
		}
		replacements = append(replacements, "{columns}", columns, "{rows}", repeat(row, rows),
			"{set}", r.each(n, where, "%[2]s = ?, "), "{overwrite}", r.each(n, where, assign))
	}
	return strings.NewReplacer(replacements...).Replace(text)
}

func marks(rows int) string { return repeat("?", rows) }

// tombs are the values of tombstones.
func (s RowSQL) tombs(rows int) string {
	return repeat("("+s.name.QuoteText(s.replica.Table)+", ?, ?, ?)", rows)
}

// hint forces the key's index where its name is known.
func (s RowSQL) hint() string {
	if s.replica.Primary {
		return " FORCE INDEX (PRIMARY)"
	}
	return ""
}

// among is the condition that a row has one of several keys.
func (s RowSQL) among(rows int) string {
	if len(s.replica.Rest) == 0 {
		return s.name.QuoteColumn(s.replica.Key.Name) + " IN (" + marks(rows) + ")"
	}
	one := "(" + s.replica.eachKey(s.name, "%[1]s = ?", " AND ") + ")"
	return strings.TrimSuffix(strings.Repeat(one+" OR ", rows), " OR ")
}

// numbered are rows of marks, each with its place before them.
func (s RowSQL) numbered(rows int) string {
	one := marks(len(s.replica.Rest) + 1)
	var b strings.Builder
	for i := range rows {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "(%d, %s)", i, one)
	}
	return b.String()
}

// repeat lists a text so many times.
func repeat(text string, times int) string {
	return strings.TrimSuffix(strings.Repeat(text+", ", times), ", ")
}
