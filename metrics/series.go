package metrics

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// series is the name of one time series: a family and its labels, as the text
// format of Prometheus writes them. Every name of a series is made here.
func series(family string, labels ...string) string {
	var b strings.Builder
	b.WriteString(family)
	for i := 0; i+1 < len(labels); i += 2 {
		b.WriteByte("{,"[min(i, 1)])
		b.WriteString(labels[i])
		b.WriteString(`="`)
		b.WriteString(labelEscapes.Replace(plain(labels[i+1])))
		b.WriteByte('"')
	}
	if len(labels) > 0 {
		b.WriteByte('}')
	}
	return b.String()
}

// labelEscapes are all that the text format has.
var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// plain is a name as text that prints. Each byte of what is no text, and of
// what does not print, becomes U+FFFD and two hexadecimal digits, and so does
// U+FFFD itself: names that differ in odd bytes stay apart.
func plain(name string) string {
	if utf8.ValidString(name) && !strings.ContainsFunc(name, odd) {
		return name
	}
	var b strings.Builder
	for i := 0; i < len(name); {
		r, n := utf8.DecodeRuneInString(name[i:])
		if !odd(r) {
			b.WriteString(name[i : i+n])
		} else {
			for _, c := range []byte(name[i : i+n]) {
				fmt.Fprintf(&b, "\uFFFD%02x", c)
			}
		}
		i += n
	}
	return b.String()
}

func odd(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }
