package collector

import (
	"bytes"
	"strconv"
	"time"
	"unicode/utf8"
)

// informational is the severity of an access record (RFC 5424 §6.2.1).
const informational = 6

// appName is who we are to a collector.
const appName = "cleversocks"

// syslog makes messages of slog's lines, text and JSON.
type syslog struct {
	facility  int
	host, pid string
	old       bool
}

// message appends a line's message, without framing.
func (s syslog) message(dst, line []byte) []byte {
	at, text := stamp(line)
	dst = append(dst, '<')
	dst = strconv.AppendInt(dst, int64(s.facility*8+informational), 10)
	dst = append(dst, '>')
	if s.old { // RFC 3164 §4.1, without a host, as syslog(3) writes to /dev/log
		dst = at.Local().AppendFormat(dst, time.Stamp)
		dst = append(append(append(append(dst, ' '), appName...), '['), s.pid...)
		dst = append(dst, "]: "...)
	} else {
		dst = append(dst, "1 "...)
		dst = at.AppendFormat(dst, "2006-01-02T15:04:05.000000Z07:00")
		for _, field := range []string{s.host, appName, s.pid, "access", "-"} {
			dst = append(append(dst, ' '), field...)
		}
		dst = append(dst, ' ')
	}
	return cut(append(dst, text...), maxMessage)
}

// stamp takes the time out of a line, and from a text also the level: the
// header has both. JSON stays whole, for who reads its fields.
func stamp(line []byte) (at time.Time, text []byte) {
	if rest, ok := bytes.CutPrefix(line, []byte(`{"time":"`)); ok {
		value, _, _ := bytes.Cut(rest, []byte{'"'})
		return timeOf(value), line
	}
	rest, ok := bytes.CutPrefix(line, []byte("time="))
	if !ok {
		return time.Now(), line
	}
	value, rest, _ := bytes.Cut(rest, []byte{' '})
	if level, after, ok := bytes.Cut(rest, []byte{' '}); ok && bytes.HasPrefix(level, []byte("level=")) {
		rest = after
	}
	return timeOf(value), rest
}

func timeOf(value []byte) time.Time {
	at, err := time.Parse(time.RFC3339Nano, string(value))
	if err != nil {
		return time.Now()
	}
	return at
}

// cut bounds a message, and leaves no half of a character.
func cut(message []byte, length int) []byte {
	if len(message) <= length {
		return message
	}
	for length > 0 && !utf8.RuneStart(message[length]) {
		length--
	}
	return message[:length]
}

// printUSASCII is a header's field (RFC 5424 §6): no space and nothing that
// does not print.
func printUSASCII(s string, most int) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		if s[i] > ' ' && s[i] < 0x7f && len(out) < most {
			out = append(out, s[i])
		}
	}
	if len(out) == 0 {
		return "-"
	}
	return string(out)
}
