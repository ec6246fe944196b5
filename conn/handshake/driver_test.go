package handshake

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
	"cleversocks/conn/wire/socks4"
	"cleversocks/conn/wire/socks5"
)

// driver answers a machine without a socket: what the client sends comes from a
// list of segments, what the daemon decides from its fields.
type driver struct {
	options   Options
	terms     Terms
	elsewhere bool         // what Search says: another replica knows the client
	wrong     error        // what Verify says; nil: right
	reply     []byte       // the token that Verify gives with that
	level     gssapi.Level // what Agree grants
	noLevel   error        // what Agree says; nil: agreed
	refused   *Failure     // what Decide says; nil: allowed
	failed    *Failure     // what Dial says; nil: connected to bound
	end       error        // of the client's bytes; nil: io.EOF
	admitted  int          // how often Admit was asked
	max       int          // the most bytes that the machine has kept
	sent      bytes.Buffer // to the client
}

var bound = netip.MustParseAddrPort("192.0.2.1:4660")

// open is a driver that lets everybody in and connects everywhere.
func open() *driver {
	return &driver{options: Options{Spoken: Spoken()}, terms: Terms{Free: true}}
}

// withPasswords is a driver whose clients need one of two kinds of credentials.
func withPasswords() *driver {
	d := open()
	d.terms = Terms{Ways: []authsvc.Kind{authsvc.KindToken, authsvc.KindPassword}, Passwords: true}
	return d
}

// unwrapped is what a test's protection makes of a client's bytes.
func unwrapped(b []byte) []byte {
	plain := bytes.Clone(b)
	for i := range plain {
		plain[i] ^= 0x55
	}
	return plain
}

// drive runs a machine to its end and returns what it asked for, without Read.
// What the client had sent beyond that follows, however it was cut.
func (d *driver) drive(m *Machine, segments ...[]byte) (trace []string) {
	note := func(format string, args ...any) { trace = append(trace, fmt.Sprintf(format, args...)) }
	segments = slices.Clone(segments)
	rest := func() []byte { return append(bytes.Clone(m.Unread()), bytes.Join(segments, nil)...) }
	for action := m.Begin(d.options); ; {
		d.max = max(d.max, len(m.kept))
		switch action {
		case Read:
			if len(segments) > 0 {
				next := bytes.Clone(segments[0])
				segments = segments[1:]
				action = m.Feed(next)
				if bytes.IndexFunc(next, func(r rune) bool { return r != 0 }) >= 0 {
					note("the fed bytes %q were left", next)
				}
				continue
			}
			end := d.end
			if end == nil {
				end = io.EOF
			}
			action = m.Lost(end)
		case Write:
			note("write %q", m.Output())
			d.sent.Write(m.Output())
			action = m.Written()
		case Identify:
			note("identify")
			action = m.Identified(d.terms)
		case Search:
			note("search")
			if d.terms.Free = d.elsewhere; d.elsewhere {
				d.terms.Named = true
			}
			action = m.Identified(d.terms)
		case Admit:
			note("admit")
			d.admitted++
			action = m.Admitted()
		case Verify:
			note("verify %s", secrets(m.Attempt()))
			if d.wrong != nil {
				action = m.Denied(fmt.Errorf("%w: %w", ErrCredentials, d.wrong))
			} else {
				action = m.Verified(d.reply)
			}
		case Agree:
			note("agree %q", m.Token())
			if d.noLevel != nil {
				action = m.Denied(errors.Join(ErrCredentials, d.noLevel))
			} else {
				action = m.Agreed([]byte("agreed"), d.level != gssapi.LevelNone)
			}
		case Protect:
			note("protect")
			ahead := m.TakeUnread()
			segments = slices.Insert(segments, 0, ahead)
			for i := range segments {
				segments[i] = unwrapped(segments[i])
			}
			segments = slices.DeleteFunc(segments, func(b []byte) bool { return len(b) == 0 })
			action = m.Protected()
		case Decide:
			note("decide %s %s %s", m.Protocol(), m.Request().Command, m.Request().Dest)
			if d.refused != nil {
				action = m.Failed(*d.refused)
			} else {
				action = m.Allowed()
			}
		case Dial:
			note("dial")
			if d.failed != nil {
				action = m.Failed(*d.failed)
			} else {
				action = m.Dialed(bound)
			}
		case Forward:
			note("forward %s %s, %d fields; behind it %q", m.Head().Method, m.Head().Target, len(m.Head().Fields), rest())
			return trace
		case Bind, Associate, Multiplex, Relay:
			note("%s; behind it %q", action, rest())
			return trace
		case Explain:
			action = m.Failed(meaning(m.Err()))
		case Refuse:
			note("refuse %q, owed %v: %v", m.Output(), m.Owed(), m.Err())
			d.sent.Write(m.Output())
			return trace
		default:
			note("action %s", action)
			return trace
		}
	}
}

// secrets are the credentials of an attempt, which print as nothing.
func secrets(a *authsvc.Attempt) string {
	switch c := a.Credentials.(type) {
	case authsvc.Password:
		text := fmt.Sprintf("%q %q", c.User, c.Password)
		clear(c.Password)
		return text
	case authsvc.Token:
		return fmt.Sprintf("token %q, negotiate %v", c.Bytes, c.Negotiate)
	case authsvc.UserID:
		return fmt.Sprintf("id %q, optional %v", string(c), a.Optional)
	}
	return "nothing"
}

// meaning is what an error of the handshake means, as far as these tests go.
func meaning(err error) (f Failure) {
	request, isRequest := errors.AsType[*socks5.RequestError](err)
	status, isStatus := errors.AsType[*httpproxy.StatusError](err)
	f.Code = wire.ReplyGeneralFailure
	switch {
	case isRequest:
		f.Code = request.Reply
	case isStatus:
		f.HTTP = httpproxy.Refusal{Status: status.Status, Reason: status.Reason}
	case errors.Is(err, socks4.ErrCommand):
		f.Code = wire.ReplyCommandNotSupported
	case errors.Is(err, authsvc.ErrBusy):
		f.HTTP = httpproxy.Refusal{Status: 503, Reason: "Busy."}
	case errors.Is(err, ErrCredentials), errors.Is(err, ErrLogin), errors.Is(err, ErrNoMethod):
		f.Code, f.HTTP.Status = wire.ReplyNotAllowed, 407
	case errors.Is(err, os.ErrDeadlineExceeded):
		f.HTTP = httpproxy.Refusal{Status: 408, Reason: "Slow."}
	}
	return f
}

// conversation is one client, and how the daemon answers it.
type conversation struct {
	driver func() *driver
	says   string
	want   []string
}

func frame(kind byte, token string) string {
	return string(gssapi.AppendFrame(nil, kind, []byte(token)))
}

const (
	request5 = "\x05\x01\x00\x01\xc0\x00\x02\x07\x01\xbb"
	named5   = "\x05\x01\x00\x03\x0bexample.org\x00\x50"
	success5 = "\x05\x00\x00\x01\xc0\x00\x02\x01\x12\x34"
	success4 = "\x00\x5a\x12\x34\xc0\x00\x02\x01"
	connect  = "CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n"
	basic    = "Proxy-Authorization: Basic YW5uOnMzY3JldA==\r\n"
	success  = "HTTP/1.1 200 Connection established\r\n\r\n"
)

func refused5(code byte) string {
	return "\x05" + string(rune(code)) + "\x00\x01\x00\x00\x00\x00\x00\x00"
}

var denied = Failure{Code: wire.ReplyNotAllowed, HTTP: httpproxy.Refusal{Status: 403, Reason: "No."}}

// with changes a driver.
func with(d func() *driver, change func(*driver)) func() *driver {
	return func() *driver {
		changed := d()
		change(changed)
		return changed
	}
}

// check plays a conversation in the given segments.
func (c *conversation) check(tb testing.TB, segments ...[]byte) {
	tb.Helper()
	var m Machine
	defer m.Reset()
	got := c.driver().drive(&m, segments...)
	if len(got) != len(c.want) {
		tb.Fatalf("asked for\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(c.want, "\n\t"))
	}
	for i := range got {
		if !strings.HasPrefix(got[i], c.want[i]) {
			tb.Fatalf("step %d: %s\nwant    %s", i, got[i], c.want[i])
		}
	}
}
