package main

import (
	"bytes"
	"encoding"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// A log line holds what strangers chose: user names, targets, errors of peers.
// None of it may reach a terminal as a command, in any format. slog's text
// format quotes such text by itself, but for DEL; the others need more help.

// textLines writes DEL, the one control character that slog and tint leave, as
// Go would. It is given whole lines.
type textLines struct{ to io.Writer }

func (t textLines) Write(line []byte) (int, error) {
	if bytes.IndexByte(line, 0x7f) < 0 {
		return t.to.Write(line)
	}
	if _, err := t.to.Write(bytes.ReplaceAll(line, []byte{0x7f}, []byte(`\x7f`))); err != nil {
		return 0, err
	}
	return len(line), nil
}

// tintEscapes takes from a text what tint would turn back into the escape
// character: it replaces \x1b in the quoted text, whoever wrote that.
var tintEscapes = strings.NewReplacer("\x1b", `\x1B`, `\x1b`, `\x1B`)

// tintSafe makes an attribute one that tint writes without giving control
// characters away. tint quotes values and keys; the message it writes as it is.
func tintSafe(groups []string, a slog.Attr) slog.Attr {
	a.Key = tintEscapes.Replace(a.Key)
	if len(groups) == 0 && a.Key == slog.MessageKey {
		return slog.String(a.Key, printable(a.Value.String()))
	}
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(tintEscapes.Replace(a.Value.String()))
	case slog.KindAny:
		if _, level := a.Value.Any().(slog.Level); !level {
			a.Value = slog.StringValue(tintEscapes.Replace(textOf(a.Value.Any())))
		}
	default: // numbers and times
	}
	return a
}

// textOf is a value as slog's text format writes it.
func textOf(v any) string {
	switch v := v.(type) {
	case encoding.TextMarshaler:
		if text, err := v.MarshalText(); err == nil {
			return string(text)
		}
	case []byte:
		return string(v)
	}
	return fmt.Sprintf("%+v", v)
}

// printable is a text with all that does not print written as Go would.
func printable(s string) string {
	if !strings.ContainsFunc(s, unprintable) {
		return s
	}
	quoted := strconv.Quote(s)
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
}

// unprintable is true for what may move a cursor or turn the direction of
// writing, and for bytes that are no UTF-8.
func unprintable(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// jsonLines escapes what JSON lets pass and a terminal obeys: DEL, the C1
// controls (U+009B begins an escape sequence like ESC does) and marks that turn
// the direction of writing. It is given whole lines.
type jsonLines struct{ to io.Writer }

// Write never changes what a line means: such characters are inside strings.
func (j jsonLines) Write(line []byte) (int, error) {
	safe := func(r rune) bool { return r < 0x7f || unicode.IsPrint(r) }
	for i := 0; i < len(line); {
		r, n := utf8.DecodeRune(line[i:])
		if !safe(r) {
			if _, err := j.to.Write(escapeJSON(line)); err != nil {
				return 0, err
			}
			return len(line), nil
		}
		i += n
	}
	return j.to.Write(line)
}

func escapeJSON(line []byte) []byte {
	out := make([]byte, 0, len(line)+64)
	for _, r := range string(line) {
		switch {
		case r < 0x7f, unicode.IsPrint(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}
