package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// hostile is every control character, what turns the direction of writing,
// invalid UTF-8, and the text that tint takes for an escape.
func hostile() []string {
	var texts []string
	for r := range rune(0xa0) {
		if r < ' ' || r >= 0x7f {
			texts = append(texts, "a"+string(r)+"[2J b", string(r))
		}
	}
	for b := 0x80; b <= 0xff; b++ {
		texts = append(texts, "a"+string([]byte{byte(b)})+"b")
	}
	return append(texts, `\x1b[31m red`, `\\x1b[31m red`, "\x1b]0;title\a", "\u202egnp.exe", "\u2028", "\u2066", "\xc2", "\xed\xa0\x80", "\U000e0001", "\ufeff")
}

type texter string

func (t texter) MarshalText() ([]byte, error) { return []byte(t), nil }

// ownColours are the escapes that tint itself writes.
var ownColours = regexp.MustCompile("\x1b\\[[0-9;]*m")

// TestLogsEscapeWhatStrangersChose: a user name with an escape sequence reached
// a colour terminal as it came, since tint undoes the quoting of \x1b.
func TestLogsEscapeWhatStrangersChose(t *testing.T) {
	for _, format := range []string{"text", "json", "tint"} {
		for _, text := range hostile() {
			out := openGate()
			l := newLogs(t.Context(), out, nil)
			l.colour = format == "tint"
			name := format
			if name == "tint" {
				name = "auto"
			}
			log := slog.New(l.handler(name, l.stderr, slog.LevelDebug))
			log.With("user", text).WithGroup("g").Warn(text, "target", text, //nolint:sloglint // hostile on purpose
				"err", errors.New(text), "any", []string{text}, "marshal", texter(text), "bytes", []byte(text),
				slog.Group("g", "inner", text), "key"+text, 1)
			l.Close()
			got := out.String()
			if format == "tint" {
				got = withoutColours(got)
			}
			if line, ok := strings.CutSuffix(got, "\n"); !ok || strings.ContainsFunc(line, obeyed) || !utf8.ValidString(got) {
				t.Errorf("%s: %q is written as %q", format, text, got)
			}
			if format == "json" && !json.Valid([]byte(got)) {
				t.Errorf("no JSON: %s", got)
			}
		}
	}
}

// withoutColours takes tint's own colours away. The text's never begin with
// the escape character: any that is left fails the test.
func withoutColours(line string) string {
	return ownColours.ReplaceAllStringFunc(line, func(seq string) string {
		switch seq {
		case "\x1b[2m", "\x1b[0m", "\x1b[22m", "\x1b[93m", "\x1b[2;91m", "\x1b[0;2m":
			return ""
		}
		return seq
	})
}

func obeyed(r rune) bool { return !unicode.IsPrint(r) }

// What JSON says stays the same, only its spelling changes.
func TestJSONLinesKeepTheirMeaning(t *testing.T) {
	out := openGate()
	l := newLogs(t.Context(), out, nil)
	text := "a\x7fb\u009bc\U000e0001dé€"
	slog.New(l.handler("json", l.stderr, slog.LevelInfo)).Info("x", "user", text)
	l.Close()
	var line struct{ User string }
	if err := json.Unmarshal([]byte(out.String()), &line); err != nil || line.User != text {
		t.Errorf("%q, %v from %s", line.User, err, out)
	}
}
