package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Value types say what they accept, for messages and the reference, and
// whether the file may give them as something else than a string.
type (
	describer       interface{ accepts() string }
	integerAccepter interface{ acceptsInteger() }
	boolAccepter    interface{ acceptsBool() }
	timeAccepter    interface{ acceptsTime() }
)

// maxList bounds the elements of one list, or of one array table: allowlists hold
// hundreds of thousands.
const maxList = 250_000

// set stores v, as TOML decoded it or, with text, as the environment or a
// flag spell it, in the key's field and checks it against the row. The error
// is the predicate of a sentence about the key.
func (k *Key) set(v any, text bool) error {
	if err := setValue(reflect.ValueOf(k.Value).Elem(), v, text); err != nil {
		if errors.Is(err, errNotAccepted) {
			return k.mismatch(v)
		}
		return err
	}
	return k.inRange(v)
}

// mismatch says what is accepted and what was there; never a secret.
func (k *Key) mismatch(v any) error {
	if isSensitive(reflect.TypeOf(k.Value).Elem()) {
		return fmt.Errorf("must be %s", k.accepts())
	}
	return fmt.Errorf("must be %s, not %s", k.accepts(), describe(v))
}

// isSensitive says that values of the type, or a list's elements, may hold a
// secret.
func isSensitive(t reflect.Type) bool {
	if t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	_, sensitive := reflect.TypeAssert[interface{ sensitive() }](reflect.Zero(t))
	return sensitive
}

func (k *Key) inRange(v any) error {
	field := reflect.ValueOf(k.Value).Elem()
	if len(k.Choices) > 0 && !slices.Contains(k.Choices, field.String()) {
		return k.mismatch(v)
	}
	for _, bound := range []struct {
		text    string
		outside func(value, bound int64) bool
	}{
		{k.Min, func(v, b int64) bool { return v < b }},
		{k.Max, func(v, b int64) bool { return v > b }},
	} {
		if bound.text == "" {
			continue
		}
		limit := reflect.New(field.Type()).Elem()
		if err := setValue(limit, bound.text, true); err != nil {
			return fmt.Errorf("has an unreadable bound %q", bound.text)
		}
		if bound.outside(field.Int(), limit.Int()) {
			return k.mismatch(v)
		}
	}
	return nil
}

// accepts describes the values of the key: "an integer from 0 to 10".
func (k *Key) accepts() string {
	if len(k.Choices) > 0 {
		quoted := make([]string, len(k.Choices))
		for i, c := range k.Choices {
			quoted[i] = strconv.Quote(c)
		}
		return "one of " + strings.Join(quoted, ", ")
	}
	what := acceptsType(reflect.TypeOf(k.Value).Elem())
	switch {
	case k.Min != "" && k.Max != "":
		return what + ", from " + k.Min + " to " + k.Max
	case k.Min != "":
		return what + ", " + k.Min + " or more"
	case k.Max != "":
		return what + ", at most " + k.Max
	default:
		return what
	}
}

func acceptsType(t reflect.Type) string {
	if d, ok := reflect.TypeAssert[describer](reflect.New(t)); ok {
		return d.accepts()
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "an integer"
	case reflect.Slice:
		return "a list, each " + acceptsType(t.Elem())
	default:
		return "a string"
	}
}

// setValue stores v in dst. errNotAccepted asks for the usual message.
func setValue(dst reflect.Value, v any, text bool) error {
	if table, isTable := v.(map[string]any); isTable {
		if u, ok := reflect.TypeAssert[tableSetter](dst.Addr()); ok {
			return u.setTable(table)
		}
	}
	if u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](dst.Addr()); ok {
		return setText(u, v)
	}
	if dst.Kind() == reflect.Slice {
		return setList(dst, v, text)
	}
	if s, ok := v.(string); ok && text {
		v = fromText(s, dst.Kind())
	}
	switch v := v.(type) {
	case string:
		if dst.Kind() == reflect.String {
			dst.SetString(v)
			return nil
		}
	case bool:
		if dst.Kind() == reflect.Bool {
			dst.SetBool(v)
			return nil
		}
	case int64:
		if isInteger(dst.Kind()) && !dst.OverflowInt(v) {
			dst.SetInt(v)
			return nil
		}
	}
	return errNotAccepted
}

// fromText reads what a flag or variable means for a kind of field; text
// that is none stays text, which then is refused.
func fromText(s string, kind reflect.Kind) any {
	if kind == reflect.Bool {
		switch s {
		case "true":
			return true
		case "false":
			return false
		}
	}
	if isInteger(kind) {
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n
		}
	}
	return s
}

func setText(dst encoding.TextUnmarshaler, v any) error {
	switch v := v.(type) {
	case string:
		return dst.UnmarshalText([]byte(v))
	case int64:
		if _, ok := dst.(integerAccepter); ok {
			return dst.UnmarshalText(strconv.AppendInt(nil, v, 10))
		}
	case bool:
		if _, ok := dst.(boolAccepter); ok {
			return dst.UnmarshalText(strconv.AppendBool(nil, v))
		}
	case time.Time:
		if _, ok := dst.(timeAccepter); ok {
			return dst.UnmarshalText([]byte(v.Format(time.RFC3339Nano)))
		}
	}
	return errNotAccepted
}

func setList(dst reflect.Value, v any, text bool) error {
	var items []any
	switch v := v.(type) {
	case []any:
		items = v
	case string:
		if _, alone := reflect.TypeAssert[interface{ standsAlone() }](reflect.Zero(dst.Type().Elem())); alone && !text {
			items = []any{v}
			break
		}
		if !text {
			return errNotAccepted
		}
		if v == "" {
			break
		}
		for item := range strings.SplitSeq(v, ",") {
			items = append(items, strings.TrimSpace(item))
		}
	default:
		return errNotAccepted
	}
	if len(items) > maxList {
		return fmt.Errorf("has %d elements, more than %d", len(items), maxList)
	}
	list := reflect.MakeSlice(dst.Type(), len(items), len(items))
	var wrong elementErrors
	for i, item := range items {
		if err := setValue(list.Index(i), item, text); err != nil {
			if errors.Is(err, errNotAccepted) {
				err = fmt.Errorf("must be %s, not %s", acceptsType(dst.Type().Elem()), describe(item))
			}
			wrong = append(wrong, elementError{i, err})
		}
	}
	if wrong != nil {
		return wrong
	}
	dst.Set(list)
	return nil
}

// elementErrors is all that is wrong with a list.
type elementErrors []elementError

type elementError struct {
	index int // from 0
	err   error
}

func (e elementError) Error() string { return fmt.Sprintf("element %d: %v", e.index+1, e.err) }

// Error is all of them, in one line.
func (e elementErrors) Error() string {
	all := make([]string, len(e))
	for i, one := range e {
		all[i] = one.Error()
	}
	return strings.Join(all, "; ")
}

// describe names a refused value in an operator's words, bounded.
func describe(v any) string {
	switch v := v.(type) {
	case string:
		return strconv.Quote(clip(v))
	case bool, int64:
		return fmt.Sprint(v)
	case float64:
		return fmt.Sprintf("the decimal number %v", v)
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	default:
		return "a date or time"
	}
}

// isInteger says whether a kind holds whole numbers. An int has 32 bits on some
// machines: what needs more is an int64.
func isInteger(kind reflect.Kind) bool { return kind == reflect.Int || kind == reflect.Int64 }
