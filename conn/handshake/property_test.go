package handshake

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"pgregory.net/rapid"

	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
	"cleversocks/conn/wire/socks5"
)

// cut cuts bytes into segments of lengths; what is left is the last one.
func cut(b []byte, lengths []byte) (segments [][]byte) {
	for _, n := range lengths {
		n := min(int(n), len(b))
		if n == 0 {
			continue
		}
		segments, b = append(segments, b[:n]), b[n:]
	}
	if len(b) > 0 {
		segments = append(segments, b)
	}
	return segments
}

// However the bytes of a client are cut into segments, payload included, the
// machine asks for the same things, and nothing is lost or comes twice.
func TestSegmentation(t *testing.T) {
	all := conversations()
	names := slices.Sorted(maps.Keys(all))
	rapid.Check(t, func(t *rapid.T) {
		c := all[rapid.SampledFrom(names).Draw(t, "conversation")]
		payload := rapid.SliceOfN(rapid.Byte(), 0, 6000).Draw(t, "payload")
		said := append([]byte(c.says), payload...)
		lengths := rapid.SliceOf(rapid.Byte()).Draw(t, "lengths")
		var m Machine
		whole, parts := c.driver().drive(&m, said), c.driver().drive(&m, cut(said, lengths)...)
		m.Reset()
		if !slices.Equal(whole, parts) {
			t.Fatalf("at once\n\t%s\nin parts\n\t%s", strings.Join(whole, "\n\t"), strings.Join(parts, "\n\t"))
		}
	})
}

// fickle is a driver whose decisions are the bits of a number.
func fickle(bits uint16) *driver {
	has := func(bit int) bool { return bits>>bit&1 == 1 }
	no := errors.New("no")
	d := open()
	d.options.Inner = has(0)
	d.terms = Terms{Free: has(1), Named: has(2), Passwords: has(3), UserIDs: has(4)}
	if has(3) {
		d.terms.Ways = append(d.terms.Ways, authsvc.KindPassword)
	}
	if has(5) {
		d.terms.Ways = append(d.terms.Ways, authsvc.KindToken)
	}
	if has(6) {
		d.wrong = no
	}
	if has(7) {
		d.reply = []byte("proof")
	}
	if has(8) {
		d.level = gssapi.LevelIntegrity
	}
	if has(9) {
		d.noLevel = no
	}
	if has(10) {
		d.refused = &denied
	}
	if has(11) {
		d.failed = &Failure{Code: wire.ReplyHostUnreachable, HTTP: httpproxy.Refusal{Status: 502, Reason: "No."}}
	}
	d.elsewhere = has(13)
	if has(12) {
		d.options.Heads = httpproxy.NewBudget(headBudget, func() {})
	}
	return d
}

// headBudget is enough for a few heads.
const headBudget = 1 << 20

// FuzzMachine feeds any bytes in any segments to a machine with any decisions:
// it comes to an end, asks for the same things as if they had come at once, says
// nothing malformed, keeps no more than a message and a segment, and gives back
// what it took.
func FuzzMachine(f *testing.F) {
	for _, c := range conversations() {
		f.Add([]byte(c.says), []byte{1, 2, 30}, uint16(0x2a))
		f.Add([]byte(c.says), []byte{7}, uint16(0x11a8))
	}
	f.Fuzz(func(t *testing.T, said, lengths []byte, bits uint16) {
		const most = 1 << 16
		if len(said) > most {
			return
		}
		var m Machine
		one, other := fickle(bits), fickle(bits)
		whole := one.drive(&m, said)
		parts := other.drive(&m, cut(said, lengths)...)
		m.Reset()
		if !slices.Equal(whole, parts) {
			t.Fatalf("at once\n\t%s\nin parts\n\t%s", strings.Join(whole, "\n\t"), strings.Join(parts, "\n\t"))
		}
		largest := 0
		for _, part := range cut(said, lengths) {
			largest = max(largest, len(part))
		}
		if message := 4 + 0xffff; other.max > message+largest {
			t.Errorf("%d bytes were kept", other.max)
		}
		if err := wellFormed(said, one.sent.Bytes()); err != nil {
			t.Errorf("%q was said to %q: %v", one.sent.Bytes(), said, err)
		}
		for _, d := range []*driver{one, other} {
			if b := d.options.Heads; b != nil && !restored(b) {
				t.Error("a head keeps some of the budget")
			}
		}
	})
}

// restored reports whether a budget has all that it began with: a head of any
// size can be read again and again.
func restored(b *httpproxy.Budget) bool {
	line := []byte("GET http://example.org/" + strings.Repeat("x", 40<<10))
	var readers []*httpproxy.HeadReader
	full := 0
	for range 2 * headBudget / len(line) {
		hr := &httpproxy.HeadReader{Budget: b}
		if _, _, err := hr.Feed(line); err == nil {
			full++
		}
		readers = append(readers, hr)
	}
	for _, hr := range readers {
		hr.Release()
	}
	return full >= headBudget/(40<<10)
}

// wellFormed checks how what was said to a client begins.
func wellFormed(said, answer []byte) error {
	if len(answer) == 0 {
		return nil
	}
	switch {
	case len(said) == 0:
		return errors.New("nothing was asked")
	case said[0] == 4:
		if len(answer) != 8 || answer[0] != 0 || answer[1] != 90 && answer[1] != 91 {
			return errors.New("no reply of eight bytes")
		}
	case said[0] == socks5.Version:
		if len(answer) < 2 || answer[0] != socks5.Version || !slices.Contains([]byte{0, 1, 2, 0xff}, answer[1]) {
			return errors.New("no method selection")
		}
	case !bytes.HasPrefix(answer, []byte("HTTP/1.1 ")):
		return errors.New("no status line")
	}
	return nil
}

// A driver that answers what it was not asked has a defect, and goes no further.
func TestWrongAnswersPanic(t *testing.T) {
	answers := map[string]func(*Machine){
		"Feed":       func(m *Machine) { m.Feed([]byte{5}) },
		"Lost":       func(m *Machine) { m.Lost(errors.New("end")) },
		"Written":    func(m *Machine) { m.Written() },
		"Identified": func(m *Machine) { m.Identified(Terms{}) },
		"Admitted":   func(m *Machine) { m.Admitted() },
		"Verified":   func(m *Machine) { m.Verified(nil) },
		"Denied":     func(m *Machine) { m.Denied(ErrCredentials) },
		"Agreed":     func(m *Machine) { m.Agreed(nil, true) },
		"Protected":  func(m *Machine) { m.Protected() },
		"Allowed":    func(m *Machine) { m.Allowed() },
		"Dialed":     func(m *Machine) { m.Dialed(bound) },
		"Failed":     func(m *Machine) { m.Failed(denied) },
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if p := recover(); !strings.HasPrefix(fmt.Sprint(p), "handshake: ") {
					t.Errorf("the machine went on: %v", p)
				}
			}()
			var m Machine
			if m.Begin(open().options); name == "Feed" || name == "Lost" {
				m.Feed([]byte("\x05\x01\x00")) // asks to identify
			}
			answer(&m)
		})
	}
}

// A machine that has served one connection holds nothing of it for the next.
func TestMachineIsUsedAgain(t *testing.T) {
	var m Machine
	for name, c := range conversations() {
		c.driver().drive(&m, []byte(c.says))
		m.Begin(Options{})
		if bytes.ContainsFunc(m.kept[:cap(m.kept)], func(r rune) bool { return r != 0 }) {
			t.Errorf("%s: %q is kept", name, m.kept[:cap(m.kept)])
		}
		if m.Output() != nil || m.Err() != nil || m.Answer() != nil || m.Head() != nil || m.Attempt().Credentials != nil ||
			m.Protocol() != wire.ProtocolUnknown || !m.Request().Dest.IsZero() {
			t.Errorf("%s: left over: %+v", name, m.Request())
		}
	}
}

// A stranger announces the longest token there may be, and sends a little of it.
// It costs him a connection, and us what he has sent, not 64 KiB each.
func TestAnnouncedTokenTakesNoMemory(t *testing.T) {
	for _, sent := range []int{0, 10, 3000} {
		var m Machine
		m.Begin(open().options)
		m.Feed([]byte("\x05\x01\x01"))
		m.Identified(withPasswords().terms)
		m.Written()
		if action := m.Feed(append([]byte{1, 1, 0xff, 0xff}, make([]byte, sent)...)); action != Read {
			t.Fatalf("the machine wants to %s", action)
		}
		if cap(m.kept) > 2*(sent+1024) {
			t.Errorf("%d bytes sent, %d kept", sent, cap(m.kept))
		}
	}
	for _, n := range []int{1, 2047, 5000, 65535} {
		c := conversation{withPasswords, "\x05\x01\x01" + frame(gssapi.TokenMessage, strings.Repeat("t", n)), []string{
			"identify", "write", fmt.Sprintf("verify token %q", strings.Repeat("t", n)), "write", `refuse "", owed false: EOF`,
		}}
		c.check(t, cut([]byte(c.says), bytes.Repeat([]byte{200}, 400))...)
	}
}

func TestHTTP2Preface(t *testing.T) {
	if http2Preface != http2.ClientPreface {
		t.Errorf("%q", http2Preface)
	}
}

// discard drives a machine through a conversation without a note.
func discard(m *Machine, d *driver, said []byte) Action {
	for action := m.Begin(d.options); ; {
		switch action {
		case Read:
			action = m.Feed(said)
		case Write:
			action = m.Written()
		case Identify:
			action = m.Identified(d.terms)
		case Admit:
			action = m.Admitted()
		case Verify:
			action = m.Verified(nil)
		case Decide:
			action = m.Allowed()
		case Dial:
			action = m.Dialed(bound)
		default:
			return action
		}
	}
}

// A reactor drives many of these: what a handshake allocates is what its request
// is made of, and nothing for the machine.
func TestGuardAllocations(t *testing.T) {
	for name, tt := range map[string]struct {
		driver func() *driver
		says   string
		most   float64
	}{
		"SOCKS5, an address": {open, "\x05\x01\x00" + request5, 0},
		"SOCKS5, a name":     {open, "\x05\x01\x00" + named5, 1},                                 // the name
		"SOCKS5, a password": {withPasswords, "\x05\x01\x02\x01\x03ann\x06s3cret" + request5, 2}, // and its interface
		"SOCKS4a":            {open, "\x04\x01\x01\xbb\x00\x00\x00\x01\x00example.org\x00", 1},
		"CONNECT":            {open, connect + "\r\n", 6}, // the head's bytes, text, fields, itself, its line
	} {
		t.Run(name, func(t *testing.T) {
			var m Machine
			d, said := tt.driver(), []byte(tt.says)
			fed := make([]byte, len(said))
			got := testing.AllocsPerRun(100, func() {
				copy(fed, said)
				if action := discard(&m, d, fed); action != Relay {
					t.Fatalf("it ends with %s", action)
				}
			})
			if got > tt.most {
				t.Errorf("%v allocations, want %v at most", got, tt.most)
			}
		})
	}
}

func BenchmarkMachine(b *testing.B) {
	for name, says := range map[string]string{
		"socks5": "\x05\x01\x00" + request5, "socks5-name": "\x05\x01\x00" + named5,
		"socks4": "\x04\x01\x01\xbb\xc0\x00\x02\x07\x00", "http": connect + "\r\n",
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var m Machine
			d, said := open(), []byte(says)
			fed := make([]byte, len(said))
			for b.Loop() {
				copy(fed, said)
				discard(&m, d, fed)
			}
		})
	}
}
