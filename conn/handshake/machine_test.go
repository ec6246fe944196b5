package handshake

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
	"cleversocks/conn/wire"
)

// socks5Conversations are those of RFC 1928, 1929 and 1961.
func socks5Conversations() map[string]conversation {
	wrong := with(withPasswords, func(d *driver) { d.wrong = errors.New("unknown") })
	decide := "decide socks5 connect 192.0.2.7:443"
	relay := []string{decide, "dial", fmt.Sprintf("write %q", success5), `relay; behind it "ahead"`}
	token, level := frame(gssapi.TokenMessage, "ticket"), frame(gssapi.LevelMessage, "\x02")
	ticket := "\x05\x03\x00\x01\x02" + token + level
	sealed := with(withPasswords, func(d *driver) { d.reply, d.level = []byte("proof"), gssapi.LevelConfidentiality })
	bare := with(withPasswords, func(d *driver) { d.reply, d.level = []byte("proof"), gssapi.LevelNone })
	begun := []string{
		"identify", `write "\x05\x01"`, `verify token "ticket", negotiate false`,
		fmt.Sprintf("write %q", frame(gssapi.TokenMessage, "proof")), `agree "\x02"`, `write "agreed"`,
	}
	return map[string]conversation{
		"5, nobody has to log in": {open, "\x05\x01\x00" + request5 + "ahead", append([]string{"identify", `write "\x05\x00"`, "admit"}, relay...)},
		"5, a name": {open, "\x05\x03\x00\x01\x80" + named5, []string{
			"identify", `write "\x05\x00"`, "admit", "decide socks5 connect example.org:80", "dial", "write", `relay; behind it ""`,
		}},
		"5, a password": {withPasswords, "\x05\x02\x00\x02\x01\x03ann\x06s3cret" + request5 + "ahead", append([]string{
			"identify", `write "\x05\x02"`, `verify "ann" "s3cret"`, `write "\x01\x00"`,
		}, relay...)},
		"5, a wrong password": {wrong, "\x05\x01\x02\x01\x03ann\x03bad" + request5, []string{
			"identify", `write "\x05\x02"`, `verify "ann" "bad"`, `refuse "\x01\x01", owed false: authentication failed: unknown`,
		}},
		// Its client was closed without the word that it waits for (RFC 1929 §2).
		"5, a password in another version": {withPasswords, "\x05\x01\x02\x05\x03ann\x06s3cret", []string{
			"identify", `write "\x05\x02"`, `refuse "\x01\x01", owed false: malformed SOCKS5 message: user/password version 5`,
		}},
		"5, a password that nobody asked for": {open, "\x05\x01\x02\x01\x01a\x00" + request5 + "ahead", append([]string{
			"identify", `write "\x05\x02"`, "admit", `write "\x01\x00"`,
		}, relay...)},
		"5, no method": {withPasswords, "\x05\x01\x80", []string{"identify", `write "\x05\xff"`, `refuse "", owed false: no acceptable`}},
		"5, known elsewhere": {with(withPasswords, func(d *driver) { d.elsewhere = true }), "\x05\x01\x00" + request5 + "ahead", append([]string{
			"identify", "search", `write "\x05\x00"`, "admit",
		}, relay...)},
		"5, known nowhere": {withPasswords, "\x05\x01\x00", []string{"identify", "search", `write "\x05\xff"`, `refuse "", owed false: no acceptable`}},
		"5, sealed":        {sealed, ticket + string(unwrapped([]byte(request5+"ahead"))), append(append(begun, "protect"), relay...)},
		"5, level 0":       {bare, ticket + request5 + "ahead", append(begun, relay...)},
		"5, a wrong ticket": {wrong, ticket, []string{
			"identify", `write "\x05\x01"`, "verify token", `refuse "\x01\xff\x00\x00", owed false: authentication failed`,
		}},
		"5, no such level": {with(withPasswords, func(d *driver) { d.noLevel = errors.New("level") }), ticket, []string{
			"identify", `write "\x05\x01"`, "verify token", "write", "agree", `refuse "\x01\xff\x00\x00", owed false: authentication failed`,
		}},
		"5, no token at all": {withPasswords, "\x05\x01\x01GET / HTTP/1.1", []string{
			"identify", `write "\x05\x01"`, `refuse "", owed false: malformed SOCKS5 message`,
		}},
		"5, BIND":             {open, "\x05\x01\x00\x05\x02\x00\x01\x00\x00\x00\x00\x00\x00ahead", []string{"identify", "write", "admit", "decide socks5 bind", `bind; behind it "ahead"`}},
		"5, UDP":              {open, "\x05\x01\x00\x05\x03\x00\x03\x010\x00\x00", []string{"identify", "write", "admit", "decide socks5 udp", `associate; behind it ""`}},
		"5, no such command":  {open, "\x05\x01\x00\x05\x09\x00\x01\xc0\x00\x02\x07\x01\xbb", []string{"identify", "write", "admit", fmt.Sprintf("refuse %q, owed true", refused5(7))}},
		"5, no such type":     {open, "\x05\x01\x00\x05\x01\x00\x09", []string{"identify", "write", "admit", fmt.Sprintf("refuse %q, owed true", refused5(8))}},
		"5, half a request":   {open, "\x05\x01\x00\x05\x01\x00", []string{"identify", "write", "admit", `refuse "", owed false: unexpected EOF`}},
		"5, nothing after it": {open, "\x05\x01\x00", []string{"identify", "write", "admit", `refuse "", owed false: EOF`}},
		"5, denied": {with(open, func(d *driver) { d.refused = &denied }), "\x05\x01\x00" + request5, []string{
			"identify", "write", "admit", decide, fmt.Sprintf("refuse %q, owed true: ", refused5(2)),
		}},
		"5, not reached": {with(open, func(d *driver) { d.failed = &Failure{Code: wire.ReplyConnectionRefused} }), "\x05\x01\x00" + request5, []string{
			"identify", "write", "admit", decide, "dial", fmt.Sprintf("refuse %q, owed true: ", refused5(5)),
		}},
	}
}

// socks4Conversations are SOCKS4's and 4a's, and those that have no protocol.
func socks4Conversations() map[string]conversation {
	const plain, named = "\x04\x01\x01\xbb\xc0\x00\x02\x07", "\x04\x01\x01\xbb\x00\x00\x00\x01"
	relay := []string{"decide socks4 connect 192.0.2.7:443", "dial", fmt.Sprintf("write %q", success4), `relay; behind it "ahead"`}
	closed := with(open, func(d *driver) { d.terms = Terms{UserIDs: true} })
	asked := with(open, func(d *driver) { d.terms.UserIDs = true })
	wrong := func(d func() *driver) func() *driver {
		return with(d, func(d *driver) { d.wrong = errors.New("unknown") })
	}
	const rejected = `refuse "\x00[\x00\x00\x00\x00\x00\x00", `
	at := with(open, func(d *driver) { d.options.Transparent = netip.MustParseAddrPort("192.0.2.7:443") })
	return map[string]conversation{
		"4":                          {open, plain + "me\x00ahead", append([]string{"identify", "admit"}, relay...)},
		"4a":                         {open, named + "\x00example.org\x00", []string{"identify", "admit", "decide socks4 connect example.org:443", "dial", "write", `relay; behind it ""`}},
		"4, a user id":               {closed, plain + "bob\x00ahead", append([]string{"identify", `verify id "bob", optional false`}, relay...)},
		"4, a wrong user id":         {wrong(closed), plain + "bob\x00", []string{"identify", "verify", rejected + "owed true: authentication failed"}},
		"4, a user id for nothing":   {wrong(asked), plain + "bob\x00ahead", append([]string{"identify", `verify id "bob", optional true`, "admit"}, relay...)},
		"4, no user id":              {closed, plain + "\x00", []string{"identify", "search", rejected + "owed true: no acceptable"}},
		"4, UDP":                     {open, "\x04\x03\x01\xbb\xc0\x00\x02\x07\x00", []string{rejected + "owed true"}},
		"4, known elsewhere":         {with(closed, func(d *driver) { d.elsewhere = true }), plain + "\x00ahead", append([]string{"identify", "search", "admit"}, relay...)},
		"4, an endless user id":      {open, plain + strings.Repeat("u", 300), []string{rejected + "owed true"}},
		"4, BIND":                    {open, "\x04\x02\x00\x00\xc0\x00\x02\x07\x00", []string{"identify", "admit", "decide socks4 bind", `bind; behind it ""`}},
		"4, half a user id":          {open, plain + "me", []string{`refuse "", owed false: unexpected EOF`}},
		"transparent":                {at, "ahead", []string{"identify", "admit", "decide transparent connect 192.0.2.7:443", "dial", `relay; behind it "ahead"`}},
		"transparent, has to log in": {with(at, func(d *driver) { d.terms = Terms{} }), "", []string{"identify", "search", `refuse "", owed true: no acceptable`}},
	}
}

// httpConversations are those of HTTP/1, and where HTTP/2 begins.
func httpConversations() map[string]conversation {
	const login = "HTTP/1.1 407 Proxy Authentication Required"
	decide := "decide http connect example.org:443"
	relay := []string{decide, "dial", fmt.Sprintf("write %q", success), `relay; behind it "ahead"`}
	wrong := func(why error) func() *driver { return with(withPasswords, func(d *driver) { d.wrong = why }) }
	silent := func(d func() *driver) func() *driver {
		return with(d, func(d *driver) { d.end = os.ErrDeadlineExceeded })
	}
	ticket := "Proxy-Authorization: Negotiate dGlja2V0\r\n"
	get := "GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n"
	quoted := func(s string) string { return strings.TrimSuffix(fmt.Sprintf("%q", s), `"`) }
	return map[string]conversation{
		"CONNECT":             {open, connect + "\r\nahead", append([]string{"identify", "admit"}, relay...)},
		"CONNECT, a password": {withPasswords, connect + basic + "\r\nahead", append([]string{"identify", `verify "ann" "s3cret"`}, relay...)},
		"CONNECT, asked first": {withPasswords, connect + "\r\n" + connect + basic + "\r\nahead", append([]string{
			"identify", "search", "write " + quoted(login), "identify", `verify "ann" "s3cret"`,
		}, relay...)},
		"CONNECT, known elsewhere": {with(withPasswords, func(d *driver) { d.elsewhere = true }), connect + "\r\nahead", append([]string{
			"identify", "search", "admit",
		}, relay...)},
		"CONNECT, and leaves": {withPasswords, connect + "\r\n", []string{"identify", "search", "write " + quoted(login), `refuse "", owed false: no credentials`}},
		"CONNECT, HTTP/1.0":   {withPasswords, "CONNECT example.org:443 HTTP/1.0\r\n\r\n" + connect, []string{"identify", "search", "refuse " + quoted(login)}},
		"CONNECT, wrong":      {wrong(errors.New("unknown")), connect + basic + "\r\n", []string{"identify", "verify", "refuse " + quoted(login)}},
		"CONNECT, busy":       {wrong(authsvc.ErrBusy), connect + basic + "\r\n", []string{"identify", "verify", "refuse " + quoted("HTTP/1.1 503 ")}},
		"CONNECT, a ticket": {with(withPasswords, func(d *driver) { d.reply = []byte("proof") }), connect + ticket + "\r\n", []string{
			"identify", `verify token "ticket", negotiate true`, decide, "dial",
			"write " + quoted("HTTP/1.1 200 Connection established\r\nProxy-Authenticate: Negotiate cHJvb2Y=\r\n\r\n"), `relay; behind it ""`,
		}},
		"CONNECT, denied": {with(open, func(d *driver) { d.refused = &denied }), connect + "\r\n", []string{
			"identify", "admit", decide, "refuse " + quoted("HTTP/1.1 403 Forbidden\r\n"),
		}},
		"GET":                   {open, get + "\r\n" + get, []string{"identify", "admit", fmt.Sprintf("forward GET http://example.org/, 1 fields; behind it %q", get)}},
		"no host":               {open, "CONNECT :443 HTTP/1.1\r\n\r\n", []string{"refuse " + quoted("HTTP/1.1 400 Bad Request")}},
		"no HTTP":               {open, "EHLO example.org\r\n", []string{"refuse " + quoted("HTTP/1.1 400 Bad Request")}},
		"half a head":           {open, connect, []string{`refuse "", owed false: unexpected EOF`}},
		"half a head, and time": {silent(open), connect, []string{"refuse " + quoted("HTTP/1.1 408 Request Timeout")}},
		"asked, and silent":     {silent(withPasswords), connect + "\r\n", []string{"identify", "search", "write", `refuse "", owed false: no credentials`}},
		"HTTP/2":                {open, http2.ClientPreface + "settings", []string{fmt.Sprintf("multiplex; behind it %q", http2.ClientPreface+"settings")}},
		"HTTP/2 in HTTP/2":      {with(open, func(d *driver) { d.options.Inner = true }), http2.ClientPreface, []string{"refuse " + quoted("HTTP/1.1 400 Bad Request")}},
		"nearly HTTP/2":         {open, "PRI http://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n", []string{"identify", "admit", "forward PRI"}},
		"half of HTTP/2":        {silent(open), "PRI * HTT", []string{`refuse "", owed false: i/o timeout`}},
	}
}

func conversations() map[string]conversation {
	all := map[string]conversation{
		"nothing":           {open, "", []string{`refuse "", owed false: EOF`}},
		"TLS":               {open, "\x16\x03\x01", []string{`refuse "", owed false: unknown protocol: first byte 0x16`}},
		"not spoken here":   {with(open, func(d *driver) { d.options.Spoken = []wire.Protocol{wire.HTTP} }), "\x05\x01\x00", []string{`refuse "", owed false: unknown protocol: socks5 is not`}},
		"nothing is spoken": {with(open, func(d *driver) { d.options.Spoken = nil }), "\x05\x01\x00", []string{`refuse "", owed false: unknown protocol: socks5 is not`}},
	}
	for _, more := range []map[string]conversation{socks5Conversations(), socks4Conversations(), httpConversations()} {
		maps.Copy(all, more)
	}
	return all
}

// Each conversation asks for the same things, whether its bytes come at once, one
// by one, or cut in two anywhere.
func TestConversations(t *testing.T) {
	for name, c := range conversations() {
		t.Run(name, func(t *testing.T) {
			all := []byte(c.says)
			c.check(t, all)
			var single [][]byte
			for i := range all {
				single = append(single, all[i:i+1])
				c.check(t, all[:i], all[i:])
			}
			c.check(t, single...)
		})
	}
}

// A byte begins one protocol at most: the order of the table decides nothing
// that a client could notice.
func TestFirstByte(t *testing.T) {
	for b := range 256 {
		var begun []wire.Protocol
		for _, p := range protocols {
			if p.begins != nil && p.begins(byte(b)) {
				begun = append(begun, p.name)
			}
		}
		if len(begun) > 1 {
			t.Errorf("the byte %#02x begins %s", b, begun)
		}
	}
}
