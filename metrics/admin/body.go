package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
)

// maxBody bounds a request's body, and maxImport one of MaxImport users, in bytes.
const (
	maxBody   = 64 << 10
	maxImport = 8 << 20
)

// body reads the request's JSON. A field that is not known is an error: it
// would have no effect. Its Content-Type is not asked for: "curl -d" says that
// JSON is a form.
func (c call) body(into any) error { return c.bodyUpTo(maxBody, into) }

// bodyUpTo is body for one of up to most bytes.
func (c call) bodyUpTo(most int64, into any) error {
	d := json.NewDecoder(http.MaxBytesReader(nil, c.Body, most))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return bodyFault(err)
	}
	if d.More() {
		return BadInput("there is more than one JSON value in the body")
	}
	return nil
}

// bodyFault says what is wrong with a body to a person who knows JSON and not Go.
func bodyFault(err error) error {
	var (
		large *http.MaxBytesError
		kind  *json.UnmarshalTypeError
	)
	switch {
	case errors.As(err, &large):
		return failure{ErrTooLarge, fmt.Sprintf("the body is longer than %d KiB", large.Limit>>10)}
	case errors.Is(err, io.EOF):
		return BadInput("the body is empty: JSON is expected")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return BadInput("the body's JSON ends in the middle")
	case errors.As(err, &kind) && kind.Field == "":
		return BadInput("the body is JSON, but " + kindOf(kind.Type) + " is expected, not " + kind.Value)
	case errors.As(err, &kind):
		return BadInput(kind.Field + ": must be " + kindOf(kind.Type) + ", not " + kind.Value)
	}
	return BadInput("the body is not the JSON that is expected: " + strings.TrimPrefix(err.Error(), "json: "))
}

// kindOf is what JSON calls the values of a type.
func kindOf(t reflect.Type) string {
	switch t.Kind() { //nolint:exhaustive // the rest is an object
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64, reflect.Uint64:
		return "an integer"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "an array"
	}
	return "an object"
}
