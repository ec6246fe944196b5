package e2e

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-krb5/krb5/keytab"

	"cleversocks/authsvc/gssapi"
	"cleversocks/authsvc/gssapi/gsstest"
)

// tickets makes tickets with the keys that the realm's KDC gave to services: of
// any time, for anybody, as no KDC of good will would. version is that of the
// keys.
func (k *kdc) tickets(path string) (forger *gsstest.KDC, version int) {
	k.t.Helper()
	keys, err := keytab.Load(path)
	if err != nil {
		k.t.Fatal(err)
	}
	return &gsstest.KDC{Keys: keys}, int(keys.Entries[len(keys.Entries)-1].KVNO)
}

// refusals is the metric of refused tickets.
func (d *daemon) refusals(reason string) int {
	d.t.Helper()
	n, _ := strconv.Atoi(d.metric(`cleversocks_auth_refused_total{method="gssapi",reason="` + reason + `"}`))
	return n
}

// presents sends a first token on a connection of its own, and returns all that
// the server says to it until it closes, or the connection if it is accepted.
func presents(t *testing.T, proxy, source string, message []byte) (answer []byte, accepted bool) {
	t.Helper()
	c := dialProxyFrom(t, proxy, source)
	defer c.Close()
	send(t, c, append([]byte{5, 1, 1}, message...)...)
	answer = receive(t, c, 4) // the method, and the type of the answer
	if answer[3] != 0xff {
		return answer, true
	}
	rest, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("after the refusal: %v", err)
	}
	return append(answer, rest...), false
}

var refusedToken = []byte{5, 1, 1, 0xff, 0, 0}

// Tickets that a client of good will may come with, at the wrong time or the
// wrong door: each is refused in the protocol's words, counted by its reason,
// and a line in the log; ten of each ban nobody.
func TestKerberosRefusals(t *testing.T) {
	k := startKDC(t)
	path := k.keytab("host/localhost", "rcmd/localhost")
	forger, version := k.tickets(path)
	d := start(t, "[auth.gssapi]\nkeytab = \""+path+"\"\n[limits]\nauth_failures = { max = 3 }\n")
	echo := echoServer(t, "127.0.0.1:0")
	now := time.Now()
	login := func(l gsstest.Login) []byte {
		t.Helper()
		l.Client, l.KVNO, l.EType = "alice", version, 20
		if l.Service == "" {
			l.Service = "rcmd/localhost"
		}
		c, err := forger.Login(l)
		if err != nil {
			t.Fatal(err)
		}
		return gssapi.AppendFrame(nil, gssapi.TokenMessage, c.Token)
	}
	for _, tt := range []struct {
		name, reason string
		login        gsstest.Login
	}{
		{"a ticket that is over", "expired", gsstest.Login{Start: now.Add(-9 * time.Hour), End: now.Add(-time.Hour)}},
		{"one for tomorrow", "clock_skew", gsstest.Login{Start: now.Add(24 * time.Hour), End: now.Add(34 * time.Hour)}},
		{"a slow clock", "clock_skew", gsstest.Login{Clock: now.Add(-10 * time.Minute)}},
		{"a fast clock", "clock_skew", gsstest.Login{Clock: now.Add(10 * time.Minute)}},
		{"another service", "service", gsstest.Login{Service: "host/localhost"}},
		{"another realm", "service", gsstest.Login{SRealm: "OTHER.EXAMPLE"}},
	} {
		before := d.refusals(tt.reason)
		for range 10 {
			if got, accepted := presents(t, d.address, "127.0.0.1", login(tt.login)); accepted || !bytes.Equal(got, refusedToken) {
				t.Fatalf("%s: % x", tt.name, got)
			}
		}
		if n := d.refusals(tt.reason) - before; n != 10 {
			t.Errorf("%s: counted %d times as %s", tt.name, n, tt.reason)
		}
		d.find("for "+tt.reason, func(l line) bool {
			return l["msg"] == "authentication refused" && l["reason"] == tt.reason && l["client"] == "127.0.0.1" && l["method"] == "gssapi"
		})
	}
	if d.metric("cleversocks_bans_active") != "0" {
		t.Error("banned")
	}
	c, _, err := forger.Dial(dialProxy(t, d.address), gsstest.Login{Client: "alice", Service: "rcmd/localhost", KVNO: version, EType: 20}, gssapi.LevelConfidentiality)
	if err != nil {
		t.Fatal("a good one from there:", err)
	}
	if got := request(t, c, 1, echo); got != succeeded {
		t.Errorf("reply %d", got)
	}
}

// A token that was cut at any length, and a message that was: the former is
// refused in the protocol's words, the latter is a client that left. Both are
// there in the metrics and the log.
func TestKerberosCutTokens(t *testing.T) {
	k := startKDC(t)
	path := k.keytab("rcmd/localhost")
	forger, version := k.tickets(path)
	d := start(t, "[auth.gssapi]\nkeytab = \""+path+"\"\n[limits]\nauth_failures = { max = 0 }\n")
	client, err := forger.Login(gsstest.Login{Client: "alice", Service: "rcmd/localhost", KVNO: version, EType: 20})
	if err != nil {
		t.Fatal(err)
	}
	token := client.Token
	// The forms of DER's lengths change at 128 and 256, the ticket begins behind
	// its headers, and its authenticator ends with the token.
	lengths := []int{1, 2, 3, 4, 5, 15, 17, 30, 64, 126, 127, 128, 129, 130, 131, 200, 254, 255, 256, 257, 258, 259, len(token) - 49, len(token) - 25, len(token) - 1}
	for _, n := range lengths {
		if got, accepted := presents(t, d.address, "127.0.0.1", gssapi.AppendFrame(nil, gssapi.TokenMessage, token[:n])); accepted || !bytes.Equal(got, refusedToken) {
			t.Errorf("%d bytes of %d: % x", n, len(token), got)
		}
	}
	longest := append(bytes.Clone(token), make([]byte, 65535-len(token))...)
	if got, _ := presents(t, d.address, "127.0.0.1", gssapi.AppendFrame(nil, gssapi.TokenMessage, longest)); !bytes.Equal(got, refusedToken) {
		t.Errorf("with rubbish behind it: % x", got)
	}
	if n := d.refusals("malformed"); n != len(lengths)+1 {
		t.Errorf("%d counted, of %d", n, len(lengths)+1)
	}
	d.find("for fail2ban", func(l line) bool {
		return l["msg"] == "authentication failed" && l["reason"] == "malformed" && l["client"] == "127.0.0.1"
	})
	d.find("with the detail", func(l line) bool {
		return l["msg"] == "authentication failed because" && l["reason"] == "malformed" && l["err"] != nil
	})
	whole := gssapi.AppendFrame(nil, gssapi.TokenMessage, token)
	for _, n := range []int{1, 2, 3, 4, 5, 131, 132, 260, 263, len(whole) - 1} {
		c := dialProxy(t, d.address)
		send(t, c, append([]byte{5, 1, 1}, whole[:n]...)...)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, []byte{5, 1}) {
			t.Errorf("a message that ends after %d bytes: % x, %v", n, got, err)
		}
		from := c.LocalAddr().String()
		d.find("of a log-in that was cut", func(l line) bool { return l["client"] == from && l["cause"] == "handshake_failed" })
	}
	if n := d.refusals("malformed"); n != len(lengths)+1 {
		t.Errorf("clients that left are counted as refused: %d", n)
	}
	if got, accepted := presents(t, d.address, "127.0.0.1", whole); !accepted {
		t.Errorf("the whole one: % x", got)
	}
}

// A message that was listened to is sent once more: by SOCKS5, by HTTP, and by
// eight connections from two addresses at the same moment. One of those is let
// in, none of the others.
func TestKerberosReplays(t *testing.T) {
	k := startKDC(t)
	client, echo := k.compile("krb5-config.mit", "libkrb5-dev"), echoServer(t, "127.0.0.1:0")
	path := k.keytab("HTTP/localhost", "rcmd/localhost")
	forger, version := k.tickets(path)
	d := start(t, "[auth.gssapi]\nkeytab = \""+path+"\"\n[limits]\nauth_failures = { max = 100 }\n")
	k.login()
	between := listenIn(t, d.address)
	if out, status := k.gssclient(client, between.address, "rcmd", "2", echo, 1000); status != 0 {
		t.Fatal(out)
	}
	c := dialProxyFrom(t, d.address, "127.0.0.2")
	send(t, c, (<-between.heard)...)
	if got, err := io.ReadAll(c); err != nil || !bytes.Equal(got, refusedToken) {
		t.Errorf("MIT's client, again: % x, %v", got, err)
	}
	d.find("of the replay", func(l line) bool {
		return l["msg"] == "authentication failed" && l["reason"] == "replay" && l["client"] == "127.0.0.2"
	})

	web := origin(t, "127.0.0.1:0")
	if out, err := run(t, k.etc, program(t, "curl", "curl"), "-sS", "-f", "--proxy-negotiate", "-U", ":", "--proxy", "http://localhost:"+port(between.address), web.URL); err != nil {
		t.Fatal(out, err)
	}
	c = dialProxyFrom(t, d.address, "127.0.0.2")
	send(t, c, (<-between.heard)...)
	answer, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || answer.StatusCode != http.StatusProxyAuthRequired {
		t.Errorf("curl's, again: %v, %v", answer, err)
	}
	if n := d.refusals("replay"); n != 2 {
		t.Errorf("%d replays counted", n)
	}

	const rounds, each = 20, 8
	for range rounds {
		one, err := forger.Login(gsstest.Login{Client: "alice", Service: "rcmd/localhost", KVNO: version, EType: 20})
		if err != nil {
			t.Fatal(err)
		}
		message := gssapi.AppendFrame(nil, gssapi.TokenMessage, one.Token)
		var in atomic.Int64
		var wg sync.WaitGroup
		at := make(chan struct{})
		for i := range each {
			wg.Go(func() {
				<-at
				if got, accepted := presents(t, d.address, fmt.Sprintf("127.0.0.%d", 3+i%2), message); accepted {
					in.Add(1)
				} else if !bytes.Equal(got, refusedToken) {
					t.Errorf("refused as % x", got)
				}
			})
		}
		close(at)
		wg.Wait()
		if in.Load() != 1 {
			t.Fatalf("let in %d times", in.Load())
		}
	}
	if n := d.refusals("replay") + d.refusals("repeated"); n != 2+rounds*(each-1) {
		t.Errorf("%d counted", n)
	}
}

// listener is somebody between a client and the proxy, who hears all that the
// client says.
type listenerIn struct {
	address string
	heard   chan []byte // of each connection, when it has ended
}

func listenIn(t *testing.T, proxy string) *listenerIn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	in := &listenerIn{address: l.Addr().String(), heard: make(chan []byte, 10)}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go in.pass(c, proxy)
		}
	}()
	return in
}

func (l *listenerIn) pass(c net.Conn, proxy string) {
	defer c.Close()
	s, err := net.Dial("tcp", proxy)
	if err != nil {
		return
	}
	defer s.Close()
	go func() {
		defer c.Close()
		_, _ = io.Copy(c, s)
	}()
	var all bytes.Buffer
	_, _ = io.Copy(io.MultiWriter(&all, s), c)
	l.heard <- all.Bytes()
}

// What `explain` says of names that are in no list of users, and of principals,
// and `check` of a keytab: its entries, keys that nobody may use, and never one
// of the keys.
func TestKerberosNamesAndKeys(t *testing.T) {
	keys := keytab.New()
	for _, e := range []struct {
		name  string
		kvno  uint8
		etype int32
	}{{"rcmd/proxy.example", 3, 18}, {"rcmd/old.example", 2, 18}, {"rcmd/old.example", 3, 23}, {"HTTP/proxy.example", 7, 23}} {
		if err := keys.AddEntry(e.name, realm, "hunter2", time.Unix(1e9, 0), e.kvno, e.etype); err != nil {
			t.Fatal(err)
		}
	}
	b, err := keys.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	path := writeFile(t, "keytab", string(b))
	file := writeFile(t, "c.toml", `
[auth.gssapi]
keytab = "`+path+`"
users = ["admin/admin@`+realm+` = root"]
[[user]]
name = "alice"
password_hash = "`+cheapHash(t, "x")+`"
from = ["192.0.2.0/24"]
[acl]
default = "deny"
block_private = false
[[acl.rule]]
action = "allow"
users = ["carol", "alice", "root"]
`)
	explain := func(user, from string) string {
		out, stderr, code := command(t, "", "explain", "--config", file, "--user", user, "--from", from, "--to", "198.51.100.7:443")
		if code != 0 {
			t.Fatal(stderr)
		}
		return out
	}
	const (
		byTicket = "is in no list of users: a ticket of Kerberos lets this client in, no password does"
		unknown  = "is unknown, or may not come from"
	)
	for _, tt := range []struct{ user, from, want, never, result string }{
		{"carol", "127.0.0.1", `user "carol" ` + byTicket, unknown, "result: allow"},
		{"carol@" + realm, "127.0.0.1", `principal carol@` + realm + ` is user "carol", by auth.gssapi`, unknown, "result: allow"},
		{"admin/admin@" + realm, "127.0.0.1", `is user "root"`, unknown, "result: allow"},
		{"dave", "127.0.0.1", `user "dave" ` + byTicket, unknown, "result: deny"},
		{"carol@OTHER.EXAMPLE", "127.0.0.1", `is user "carol@OTHER.EXAMPLE"`, unknown, "result: deny"},
		{"alice@" + realm, "192.0.2.7", `is user "alice"`, byTicket, "result: allow"},
		{"alice", "192.0.2.7", "", byTicket, "result: allow"},
		{"alice", "127.0.0.1", `user "alice" ` + unknown, byTicket, "result: allow"},
	} {
		if got := explain(tt.user, tt.from); !strings.Contains(got, tt.want) || strings.Contains(got, tt.never) || !strings.Contains(got, tt.result) {
			t.Errorf("%s from %s:\n%s", tt.user, tt.from, got)
		}
	}
	out, stderr, code := command(t, "", "check", "--config", file)
	if code != 0 {
		t.Fatal(stderr)
	}
	all := out + stderr + explain("carol", "127.0.0.1")
	for _, want := range []string{
		"rcmd/proxy.example@" + realm + ", version 3, aes256-cts-hmac-sha1-96", "HTTP/proxy.example@" + realm + ", version 7, rc4-hmac (not accepted)",
		"the keytab's keys of rcmd/old.example@" + realm + ", version 3, are of RC4 or DES alone", "the keytab's keys of HTTP/proxy.example@" + realm + ", version 7, are of RC4 or DES alone",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	for _, e := range keys.Entries {
		for _, form := range []string{string(e.Key.KeyValue), fmt.Sprintf("%x", e.Key.KeyValue), base64.StdEncoding.EncodeToString(e.Key.KeyValue)} {
			if strings.Contains(all, form) {
				t.Fatal("a key is printed")
			}
		}
	}
}

// Where a client comes from says how it may log in, on the one listener: the
// office by ticket, guests by password alone, and a SOCKS4 user id nowhere,
// though the user has no password. It is the same for HTTP.
func TestAuthFrom(t *testing.T) {
	k := startKDC(t)
	path := k.keytab("HTTP/localhost", "rcmd/localhost")
	forger, version := k.tickets(path)
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, `
[auth]
user = "ann"
password = "s3cret"
socks4_users = true
[auth.gssapi]
keytab = "`+path+`"
[[user]]
name = "bob"
[[listener]]
address = "127.0.0.1:0"
auth = ["gssapi", "password"]
auth_from = ["127.1.0.0/16 = password", "127.1.1.0/24 = gssapi"]
`)
	for _, tt := range []struct {
		source string
		method byte
		asked  string
	}{
		{"127.0.0.1", 1, `Negotiate, Basic`}, {"127.1.0.1", 2, `Basic`}, {"127.1.1.1", 1, `Negotiate`},
	} {
		c := dialProxyFrom(t, d.address, tt.source)
		send(t, c, 5, 2, 2, 1)
		if got := receive(t, c, 2); got[1] != tt.method {
			t.Errorf("%s: method %d, want %d", tt.source, got[1], tt.method)
		}
		c = dialProxyFrom(t, d.address, tt.source)
		send(t, c, []byte("CONNECT "+echo.String()+" HTTP/1.1\r\nHost: x\r\n\r\n")...)
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		var asked []string
		for _, challenge := range answer.Header.Values("Proxy-Authenticate") {
			scheme, _, _ := strings.Cut(challenge, " ")
			asked = append(asked, scheme)
		}
		if got := strings.Join(asked, ", "); got != tt.asked {
			t.Errorf("%s is asked for %q, want %q", tt.source, got, tt.asked)
		}
		c = dialProxyFrom(t, d.address, tt.source)
		send(t, c, append([]byte{4, 1, byte(echo.Port() >> 8), byte(echo.Port()), 127, 0, 0, 1}, "bob\x00"...)...)
		if got := receive(t, c, 8); got[1] != 91 {
			t.Errorf("%s: a SOCKS4 user id is answered %d", tt.source, got[1])
		}
	}
	one, err := forger.Login(gsstest.Login{Client: "alice", Service: "HTTP/localhost", KVNO: version, EType: 20})
	if err != nil {
		t.Fatal(err)
	}
	c := dialProxyFrom(t, d.address, "127.1.0.1")
	send(t, c, []byte("CONNECT "+echo.String()+" HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Negotiate "+base64.StdEncoding.EncodeToString(one.Token)+"\r\n\r\n")...)
	if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || answer.StatusCode != http.StatusProxyAuthRequired {
		t.Errorf("a ticket from where none is taken: %v, %v", answer, err)
	}
	login(t, d.address, "127.1.0.1", "ann", "s3cret")
}
