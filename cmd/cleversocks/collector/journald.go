package collector

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"
)

// journald makes datagrams of its native protocol out of JSON lines: MESSAGE
// for people, and each field as CLEVERSOCKS_NAME for filters.
// https://systemd.io/JOURNAL_NATIVE_PROTOCOL/
type journald struct {
	json bool // MESSAGE is the line itself
}

// maxField bounds one field's bytes.
const maxField = 4 << 10

// message appends a line's datagram.
func (j journald) message(dst, line []byte) []byte {
	fields, ok := fieldsOf(line)
	text := string(line)
	if ok && !j.json {
		text = textOf(fields)
	}
	dst = appendField(dst, "MESSAGE", text)
	dst = appendField(dst, "PRIORITY", strconv.Itoa(informational))
	dst = appendField(dst, "SYSLOG_IDENTIFIER", appName)
	for _, f := range fields {
		switch f.name {
		case slog.MessageKey, slog.LevelKey:
		case slog.TimeKey: // journald notes when the datagram came; this is when the connection ended
			if at, err := time.Parse(time.RFC3339Nano, f.value); err == nil {
				dst = appendField(dst, "SYSLOG_TIMESTAMP", at.Format(time.RFC3339Nano))
			}
		default:
			dst = appendField(dst, "CLEVERSOCKS_"+strings.ToUpper(f.name), f.value)
		}
	}
	return dst
}

// appendField appends "NAME=value", or the form with a length where the value
// has a line's end: what strangers chose makes no field of its own.
func appendField(dst []byte, name, value string) []byte {
	value = string(cut([]byte(value), maxField))
	dst = append(dst, name...)
	if strings.Contains(value, "\n") {
		dst = append(dst, '\n')
		dst = binary.LittleEndian.AppendUint64(dst, uint64(len(value)))
		return append(append(dst, value...), '\n')
	}
	return append(append(append(dst, '='), value...), '\n')
}

// field is a record's, as text.
type field struct{ name, value string }

// fieldsOf reads an object of texts, numbers and truths, in its order. False:
// the line is none.
func fieldsOf(line []byte) (fields []field, ok bool) {
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, false
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, false
		}
		value, err := d.Token()
		if _, nested := value.(json.Delim); nested || err != nil {
			return nil, false // a record has none
		}
		fields = append(fields, field{name.(string), fmt.Sprint(value)})
	}
	return fields, true
}

// textOf is a record as slog's text, without time and level, which journald
// shows by itself.
func textOf(fields []field) string {
	var out strings.Builder
	r := slog.Record{}
	for _, f := range fields {
		switch f.name {
		case slog.TimeKey, slog.LevelKey:
		case slog.MessageKey:
			r.Message = f.value
		default:
			r.AddAttrs(slog.String(f.name, f.value))
		}
	}
	h := slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.LevelKey || a.Key == slog.TimeKey) {
			return slog.Attr{}
		}
		return a
	}})
	if err := h.Handle(context.Background(), r); err != nil {
		return r.Message // a builder takes everything: this cannot be
	}
	return strings.TrimSuffix(out.String(), "\n")
}
