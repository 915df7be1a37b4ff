package outbox

import (
	"database/sql/driver"
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
)

// ErrKey reports a key that is null or of a type that cannot be one.
var ErrKey = errors.New("not a key")

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
	case reflect.Invalid, reflect.Slice:
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
