package outbox

import (
	"database/sql/driver"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/lockstep-go/lockstep/event"
	"github.com/lockstep-go/lockstep/internal/dialect"
)

// ErrKey reports a key that is null or of a type that cannot be one.
var ErrKey = errors.New("not a key")

// Composite is a key of several columns, in the order of [Entity.Keys]:
//
//	tx.Saved("shelf", outbox.Composite{"eu", 7})
type Composite []any

// keyText returns a key of an entity as text.
func (e *Entity) keyText(key any) (string, error) {
	columns := e.keyColumns()
	parts, composite := key.(Composite)
	switch {
	case composite && len(parts) != len(columns):
		return "", fmt.Errorf("%w: it has %s, and the entity's key %d", ErrKey, columnCount(len(parts)), len(columns))
	case len(columns) == 1 && composite:
		return keyText(parts[0])
	case len(columns) == 1:
		return keyText(key)
	case composite:
		return compositeText(parts)
	}
	text, err := keyText(key)
	if v := reflect.ValueOf(key); err != nil && v.Kind() == reflect.Slice && !v.IsNil() {
		err = fmt.Errorf("%w: the entity's has %d columns: use outbox.Composite, not %T, and pass several keys one by one", ErrKey, len(columns), key)
	}
	if err != nil {
		return "", err
	}
	var texts []string // as it stands in the outbox
	if json.Unmarshal([]byte(text), &texts) != nil || len(texts) != len(columns) {
		return "", fmt.Errorf("%w: the entity's has %d columns: use outbox.Composite", ErrKey, len(columns))
	}
	return textsJSON(texts), nil
}

// columnCount is a number of columns in words.
func columnCount(n int) string {
	if n == 1 {
		return "1 column"
	}
	return fmt.Sprintf("%d columns", n)
}

// compositeText is the JSON array of the texts of a key's columns.
func compositeText(parts []any) (string, error) {
	texts := make([]string, len(parts))
	for i, part := range parts {
		text, err := keyText(part)
		if err != nil {
			return "", fmt.Errorf("column %d: %w", i+1, err)
		}
		texts[i] = text
	}
	return textsJSON(texts), nil
}

func textsJSON(texts []string) string {
	dst := []byte{'['}
	for i, text := range texts {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = event.AppendString(dst, text)
	}
	return string(append(dst, ']'))
}

// spell spells keys as the database does, where that can be told here: "007" is 7,
// and each row is to be asked for once. It finds keys that are none of the column's
// type before the database does, which could not tell which of many it was.
func (p *plan) spell(d Dialect, keys []string) ([]string, error) {
	spelled := keys
	for i, key := range keys {
		text, column, err := p.spellOne(d, key)
		if err != nil {
			return nil, &RowError{Entity: p.ID, Keys: []string{key}, Column: column, Err: err}
		}
		if text == key {
			continue
		}
		if &spelled[0] == &keys[0] {
			spelled = slices.Clone(keys)
		}
		spelled[i] = text
	}
	if &spelled[0] == &keys[0] {
		return keys, nil
	}
	has := make(map[string]bool, len(spelled))
	return slices.DeleteFunc(spelled, func(key string) bool {
		twice := has[key]
		has[key] = true
		return twice
	}), nil
}

func (p *plan) spellOne(d Dialect, key string) (text, column string, err error) {
	if len(p.keys) == 1 {
		return spellColumn(d, &p.keys[0], key)
	}
	var texts []string
	_ = json.Unmarshal([]byte(key), &texts) // made by keyText
	for i := range texts {
		if texts[i], column, err = spellColumn(d, &p.keys[i], texts[i]); err != nil {
			return "", column, err
		}
	}
	return textsJSON(texts), "", nil
}

// spellColumn returns a column's name with an error that is about it.
func spellColumn(d Dialect, c *dialect.Column, text string) (spelled, column string, err error) {
	bits, trimmed, ok := integerBits(c.Base), strings.TrimSpace(text), true
	switch {
	case d == SQLite: // takes any text, and finds no row
		spelled = text
		if n, err := strconv.ParseInt(trimmed, 10, 64); err == nil && strings.Contains(c.Base, "int") {
			spelled = strconv.FormatInt(n, 10)
		}
	case bits > 0 && strings.Contains(strings.ToLower(c.Type), "unsigned"):
		n, err := strconv.ParseUint(strings.TrimPrefix(trimmed, "+"), 10, bits)
		spelled, ok = strconv.FormatUint(n, 10), err == nil
	case bits > 0:
		var buffer [20]byte
		n, err := strconv.ParseInt(trimmed, 10, bits)
		if ok = err == nil; string(strconv.AppendInt(buffer[:0], n, 10)) == text {
			return text, "", nil // without a copy
		}
		spelled = strconv.FormatInt(n, 10)
	case c.Base == "uuid":
		digits := strings.NewReplacer("-", "", "{", "", "}", "").Replace(trimmed)
		id, err := hex.DecodeString(digits)
		if ok = err == nil && len(id) == len(uuid.UUID{}); ok {
			spelled = uuid.UUID(id).String()
		}
	default:
		spelled, ok = text, !strings.Contains(text, "\x00") && inCharset(c, text)
	}
	if !ok {
		return "", c.Name, fmt.Errorf("%w: %.60q is no %s", ErrKey, text, c.Type)
	}
	return spelled, "", nil
}

func integerBits(base string) int {
	switch base {
	case "tinyint":
		return 8
	case "smallint":
		return 16
	case "mediumint":
		return 24
	case "integer", "int":
		return 32
	case "bigint":
		return 64
	}
	return 0
}

// inCharset reports whether a MySQL column's character set has all of the text. It
// would put question marks in place of the rest.
func inCharset(c *dialect.Column, text string) bool {
	if c.Collation == "" {
		return true
	}
	highest := rune(utf8.MaxRune)
	switch charset, _, _ := strings.Cut(c.Collation, "_"); charset {
	case "ascii":
		highest = unicode.MaxASCII
	case "utf8", "utf8mb3":
		highest = 0xffff
	}
	return !strings.ContainsFunc(text, func(r rune) bool { return r > highest })
}

// keyText returns a key as the text its column's input conversion reads. Keys
// are integers, text, and whatever says its own text or value: uuid.UUID,
// sql.NullInt64, and types made of these.
func keyText(key any) (string, error) {
	switch k := key.(type) {
	case string:
		return k, nil
	case int64:
		return strconv.FormatInt(k, 10), nil
	case int:
		return strconv.Itoa(k), nil
	case []byte:
		if k != nil {
			return string(k), nil
		}
	case driver.Valuer:
		return valuerText(k)
	case encoding.TextMarshaler:
		text, err := k.MarshalText()
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrKey, err)
		}
		return string(text), nil
	}
	switch v := reflect.ValueOf(key); v.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.FormatInt(v.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.FormatUint(v.Uint(), 10), nil
	case reflect.String:
		return v.String(), nil
	case reflect.Pointer:
		if !v.IsNil() {
			return keyText(v.Elem().Interface())
		}
	case reflect.Slice:
		if !v.IsNil() {
			return "", fmt.Errorf("%w: %T holds keys: pass them one by one, or mark rows by SavedRows", ErrKey, key)
		}
	case reflect.Invalid:
	default:
		return "", fmt.Errorf("%w: %T: use an integer, text, or a type that has a text", ErrKey, key)
	}
	return "", fmt.Errorf("%w: it is null", ErrKey)
}

func valuerText(k driver.Valuer) (string, error) {
	if v := reflect.ValueOf(k); v.Kind() == reflect.Pointer && v.IsNil() {
		return "", fmt.Errorf("%w: it is null", ErrKey)
	}
	value, err := k.Value()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrKey, err)
	}
	if _, again := value.(driver.Valuer); again {
		return "", fmt.Errorf("%w: %T has no plain value", ErrKey, k)
	}
	return keyText(value)
}
