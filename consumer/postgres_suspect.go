package consumer

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// suspicious reports whether a value looks as if the column would refuse it. It
// only decides which messages of a failed batch are tried alone first: the
// database has the last word, so a wrong guess costs time and nothing else.
func suspicious(column *dialect.Column, raw []byte) bool {
	text, scalar := event.Text(raw)
	switch column.Base {
	case "json":
		return false
	case "jsonb":
		return strings.Contains(string(raw), `\u`)
	}
	if !scalar {
		return !strings.HasSuffix(column.Base, "]") && column.Base != "text"
	}
	switch column.Base {
	case "smallint":
		return !fitsInt(text, 16)
	case "integer":
		return !fitsInt(text, 32)
	case "bigint":
		return !fitsInt(text, 64)
	case "numeric", "real", "double precision":
		return !fitsNumber(text, column.Type)
	case "boolean":
		return !isBool(text)
	case "uuid":
		_, ok := canonicalUUID(text)
		return !ok
	case "date", "timestamp with time zone", "timestamp without time zone":
		_, _, err := event.ParseTime(text)
		return err != nil
	}
	return suspiciousText(text, column.Type)
}

func fitsInt(text string, bits int) bool {
	_, err := strconv.ParseInt(strings.TrimSpace(text), 10, bits)
	return err == nil
}

// fitsNumber reads numbers, and the digits before the point that numeric(10,2) allows.
func fitsNumber(text, columnType string) bool {
	f, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil {
		return false
	}
	precision, scale, ok := strings.Cut(typeModifier(columnType), ",")
	if !ok {
		return true
	}
	p, _ := strconv.Atoi(precision)
	s, _ := strconv.Atoi(scale)
	limit, err := strconv.ParseFloat("1e"+strconv.Itoa(p-s), 64)
	return err != nil || f < limit && f > -limit
}

func isBool(text string) bool {
	switch strings.ToLower(text) {
	case "true", "false", "t", "f", "yes", "no", "on", "off", "1", "0":
		return true
	}
	return false
}

// suspiciousText looks for what PostgreSQL's text cannot hold, or not in that length.
func suspiciousText(text, columnType string) bool {
	if strings.ContainsRune(text, 0) || strings.ContainsRune(text, utf8.RuneError) {
		return true // a lone surrogate was decoded to the replacement character
	}
	limit, err := strconv.Atoi(typeModifier(columnType))
	return err == nil && strings.HasPrefix(columnType, "character") && utf8.RuneCountInString(text) > limit
}

// typeModifier returns what stands in a type's brackets: "10,2" of numeric(10,2).
func typeModifier(columnType string) string {
	_, rest, _ := strings.Cut(columnType, "(")
	modifier, _, _ := strings.Cut(rest, ")")
	return modifier
}
