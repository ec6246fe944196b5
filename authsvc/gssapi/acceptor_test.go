package gssapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
	"cleversocks/authsvc/gssapi/gsstest"
	"cleversocks/metrics"
)

const service = "rcmd/proxy.test.example"

// acceptor has the keys of a KDC's services.
func acceptor(tb testing.TB, kdc *gsstest.KDC, o gssapi.Options) *gssapi.Acceptor {
	tb.Helper()
	var err error
	o.Keytab, err = gssapi.ReadKeytab("", func(string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(kdc.Keytab())), nil })
	if err != nil {
		tb.Fatal(err)
	}
	o.Service = "rcmd"
	return gssapi.NewAcceptor(o)
}

func attempt(token []byte) *authsvc.Attempt {
	return &authsvc.Attempt{Credentials: authsvc.Token{Bytes: token}, Source: netip.MustParseAddr("192.0.2.7")}
}

func reasonOf(err error) authsvc.Reason {
	if r, ok := errors.AsType[*authsvc.Refusal](err); ok {
		return r.Reason
	}
	return ""
}

func login(tb testing.TB, kdc *gsstest.KDC, l gsstest.Login) *gsstest.Client {
	tb.Helper()
	if l.Client == "" {
		l.Client = "alice"
	}
	if l.Service == "" {
		l.Service = service
	}
	c, err := kdc.Login(l)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func TestAccept(t *testing.T) {
	kdc := gsstest.NewKDC(service)
	a := acceptor(t, kdc, gssapi.Options{})
	for _, etype := range []int32{17, 18, 19, 20} {
		for _, mutual := range []bool{true, false} {
			c := login(t, kdc, gsstest.Login{EType: etype, NoMutual: !mutual})
			grant, err := a.Authenticate(t.Context(), attempt(c.Token))
			if err != nil {
				t.Fatalf("etype %d: %v", etype, err)
			}
			if grant.Identity.User != "alice@"+gsstest.Realm || grant.Identity.Method != authsvc.MethodGSSAPI {
				t.Errorf("%+v", grant.Identity)
			}
			client, err := c.Finish(grant.Reply)
			if err != nil {
				t.Fatalf("etype %d, mutual %v: %v", etype, mutual, err)
			}
			for _, seal := range []bool{true, false} {
				if got, _, err := grant.Security.Unwrap(client.Wrap(nil, []byte("up"), seal)); err != nil || string(got) != "up" {
					t.Errorf("etype %d: %q, %v", etype, got, err)
				}
				if got, _, err := client.Unwrap(grant.Security.Wrap(nil, []byte("down"), seal)); err != nil || string(got) != "down" {
					t.Errorf("etype %d: %q, %v", etype, got, err)
				}
			}
		}
	}
}

// What is refused, and why. What a client of good will may do counts towards
// no ban: it is not a guess.
func TestAcceptRefuses(t *testing.T) {
	kdc := gsstest.NewKDC(service, "host/proxy.test.example", "RCMD/Other.test.example")
	a := acceptor(t, kdc, gssapi.Options{})
	kdc.Add(service, 2) // after the keytab was read
	kdc.Add("rcmd/elsewhere.test.example", 1)
	now := time.Now()
	for name, tt := range map[string]struct {
		login gsstest.Login
		want  authsvc.Reason
	}{
		"good":                    {gsstest.Login{}, ""},
		"another case":            {gsstest.Login{Service: "RCMD/Other.test.example"}, ""},
		"another service":         {gsstest.Login{Service: "host/proxy.test.example"}, authsvc.ReasonService},
		"another host":            {gsstest.Login{Service: "rcmd/elsewhere.test.example"}, authsvc.ReasonService},
		"another realm":           {gsstest.Login{SRealm: "OTHER.EXAMPLE"}, authsvc.ReasonService},
		"another key":             {gsstest.Login{KVNO: 2}, authsvc.ReasonKey},
		"nobody":                  {gsstest.Login{Client: "WELLKNOWN/ANONYMOUS"}, authsvc.ReasonTicket},
		"expired":                 {gsstest.Login{Start: now.Add(-2 * time.Hour), End: now.Add(-time.Hour)}, authsvc.ReasonExpired},
		"expired within the skew": {gsstest.Login{Start: now.Add(-2 * time.Hour), End: now.Add(-4 * time.Minute)}, ""},
		"not yet valid":           {gsstest.Login{Start: now.Add(time.Hour), End: now.Add(2 * time.Hour)}, authsvc.ReasonClock},
		"a slow clock":            {gsstest.Login{Clock: now.Add(-6 * time.Minute)}, authsvc.ReasonClock},
		"a fast clock":            {gsstest.Login{Clock: now.Add(6 * time.Minute)}, authsvc.ReasonClock},
		"a clock within the skew": {gsstest.Login{Clock: now.Add(4 * time.Minute)}, ""},
	} {
		_, err := a.Authenticate(t.Context(), attempt(login(t, kdc, tt.login).Token))
		if reasonOf(err) != tt.want {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// A Windows without a ticket names NTLM first, Kerberos behind it, and sends what
// is NTLM's; others send nothing at all. They are not somebody who guesses: an
// office of them must not be banned.
func TestOtherMechanismsAreNoGuess(t *testing.T) {
	a := acceptor(t, gsstest.NewKDC("HTTP/proxy.test.example"), gssapi.Options{})
	ntlm := []byte("NTLMSSP\x00\x01\x00\x00\x00\x97\x82\x08\xe2")
	for name, token := range map[string][]byte{
		"bare":               ntlm,
		"behind Kerberos":    gsstest.SPNEGO(ntlm),
		"nothing":            gsstest.SPNEGO(nil),
		"another mechanism":  {0x60, 0x06, 6, 2, 0x2b, 1, 1, 0},
		"another in SPNEGO":  gsstest.SPNEGO([]byte{0x60, 0x06, 6, 2, 0x2b, 1, 1, 0}),
		"NEGOEX's in SPNEGO": gsstest.SPNEGO([]byte("NEGOEXTS\x00\x00\x00\x00")),
	} {
		_, err := a.Authenticate(t.Context(), &authsvc.Attempt{Credentials: authsvc.Token{Bytes: token, Negotiate: true}})
		if reasonOf(err) != authsvc.ReasonMechanism {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The same message by a hundred connections at once is taken by one.
func TestReplay(t *testing.T) {
	kdc := gsstest.NewKDC(service)
	a := acceptor(t, kdc, gssapi.Options{})
	token := login(t, kdc, gsstest.Login{}).Token
	var taken, replayed atomic.Int64
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			switch _, err := a.Authenticate(t.Context(), attempt(token)); reasonOf(err) {
			case "":
				taken.Add(1)
			case authsvc.ReasonReplay:
				replayed.Add(1)
			default:
				t.Errorf("refused: %v", err)
			}
		})
	}
	wg.Wait()
	if taken.Load() != 1 || replayed.Load() != 99 {
		t.Errorf("taken %d times, refused %d", taken.Load(), replayed.Load())
	}
}

// A token that was cut or changed anywhere is refused, and nothing panics.
func TestDamagedTokens(t *testing.T) {
	kdc := gsstest.NewKDC(service)
	a := acceptor(t, kdc, gssapi.Options{})
	token := login(t, kdc, gsstest.Login{}).Token
	for i := range token {
		for name, damaged := range map[string][]byte{
			"cut":     token[:i],
			"changed": append(append(bytes.Clone(token[:i]), token[i]^0x55), token[i+1:]...),
			"without": append(bytes.Clone(token[:i]), token[i+1:]...),
		} {
			if _, err := a.Authenticate(t.Context(), attempt(damaged)); err == nil && name != "changed" {
				t.Fatalf("%s at %d: taken", name, i)
			} else if err != nil && reasonOf(err) == "" {
				t.Fatalf("%s at %d: %v", name, i, err)
			}
		}
	}
}

func TestMapping(t *testing.T) {
	m, err := gssapi.NewMapping(gssapi.MappingOptions{
		StripRealms: []string{gsstest.Realm},
		Users:       []string{"bob/admin@" + gsstest.Realm + " = root", `/(.*)@SALES\.EXAMPLE/ = $1-sales`},
	})
	if err != nil {
		t.Fatal(err)
	}
	kdc := gsstest.NewKDC(service)
	a := acceptor(t, kdc, gssapi.Options{Mapping: m})
	for _, tt := range [][3]string{
		{"alice", gsstest.Realm, "alice"},
		{"bob/admin", gsstest.Realm, "root"},
		{"bob/other", gsstest.Realm, "bob/other"},
		{"alice", "SALES.EXAMPLE", "alice-sales"},
		{"alice", "FOREIGN.EXAMPLE", "alice@FOREIGN.EXAMPLE"}, // not our alice
		{"alice@" + gsstest.Realm, "FOREIGN.EXAMPLE", "alice@" + gsstest.Realm + "@FOREIGN.EXAMPLE"},
	} {
		grant, err := a.Authenticate(t.Context(), attempt(login(t, kdc, gsstest.Login{Client: tt[0], CRealm: tt[1]}).Token))
		if err != nil || grant.Identity.User != tt[2] {
			t.Errorf("%s@%s is %q, %v; want %q", tt[0], tt[1], grant.Identity.User, err, tt[2])
		}
	}
	for _, bad := range []gssapi.MappingOptions{{Users: []string{"alice"}}, {Users: []string{"/(/ = x"}}, {Users: []string{"= x"}}, {Groups: []string{"staff = S-1-5"}}} {
		if _, err := gssapi.NewMapping(bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}

// A user of Active Directory types his name as he likes, and it says so in his
// ticket: he is one user all the same, where the settings want it.
func TestNamesInAnyCase(t *testing.T) {
	m, err := gssapi.NewMapping(gssapi.MappingOptions{
		StripRealms: []string{gsstest.Realm}, Users: []string{"Bob/Admin@" + gsstest.Realm + " = Root", `/(.*)-x@TEST\.EXAMPLE/ = $1`}, LowerCase: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	a := acceptor(t, gsstest.NewKDC(service), gssapi.Options{Mapping: m})
	for principal, want := range map[string]string{
		"ALICE@TEST.EXAMPLE": "alice", "Alice@TEST.EXAMPLE": "alice", "BOB/admin@TEST.EXAMPLE": "Root", "CAROL-X@TEST.EXAMPLE": "carol", "Alice@test.example": "alice@test.example",
	} {
		if got, ok := a.UserOf(principal); !ok || got != want {
			t.Errorf("%s is %q, want %q", principal, got, want)
		}
	}
}

func TestKeytab(t *testing.T) {
	kdc := gsstest.NewKDC(service)
	if err := kdc.Keys.AddEntry("HTTP/proxy.test.example", gsstest.Realm, "x", time.Unix(1, 0), 3, 23); err != nil {
		t.Fatal(err)
	}
	read := func(b []byte) (*gssapi.Keytab, error) {
		return gssapi.ReadKeytab("", func(string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	}
	k, err := read(kdc.Keytab())
	if err != nil {
		t.Fatal(err)
	}
	entries := k.Entries()
	if len(entries) != 5 || entries[1] != (gssapi.Entry{Principal: service + "@" + gsstest.Realm, KVNO: 1, EType: "aes256-cts-hmac-sha1-96", Usable: true}) || entries[4].Usable {
		t.Errorf("%+v", entries)
	}
	warnings := strings.Join(k.Warnings([]string{"rcmd", "none"}, []string{"HTTP", "other"}), "\n")
	if !strings.Contains(warnings, "HTTP/proxy.test.example@"+gsstest.Realm+", version 3, are of RC4") || !strings.Contains(warnings, `no key of the service "none"`) || strings.Contains(warnings, "rcmd") {
		t.Error(warnings)
	}
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(format, k); s != "5 keys" {
			t.Errorf("%s prints %s", format, s)
		}
	}
	for i := range len(kdc.Keytab()) {
		_, _ = read(kdc.Keytab()[:i])
	}
	if _, err := read([]byte("not a keytab at all")); err == nil {
		t.Error("accepted")
	}
}

// Bytes of any size go through a wrapped connection, both ways at once, and
// ends of stream pass one way at a time.
func TestConn(t *testing.T) {
	kdc := gsstest.NewKDC(service)
	a := acceptor(t, kdc, gssapi.Options{})
	for _, level := range []gssapi.Level{gssapi.LevelIntegrity, gssapi.LevelConfidentiality} {
		c := login(t, kdc, gsstest.Login{EType: 20})
		grant, err := a.Authenticate(t.Context(), attempt(c.Token))
		if err != nil {
			t.Fatal(err)
		}
		context, err := c.Finish(grant.Reply)
		if err != nil {
			t.Fatal(err)
		}
		near, far := sockets(t)
		client, server := gssapi.NewConn(near, near, context, level), gssapi.NewConn(far, far, grant.Security, level)
		big := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
		var wg sync.WaitGroup
		for _, end := range []*gssapi.Conn{client, server} {
			wg.Go(func() {
				if _, err := end.Write(big); err != nil {
					t.Error(err)
				}
				if err := end.CloseWrite(); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() {
				got, err := io.ReadAll(end)
				if err != nil || !bytes.Equal(got, big) {
					t.Errorf("%s: %d bytes, %v", level, len(got), err)
				}
			})
		}
		wg.Wait()
	}
}

func sockets(tb testing.TB) (near, far net.Conn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	near, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	far, err = l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// A message that is not encrypted ends a connection which agreed on that it is.
func TestConnInsistsOnItsLevel(t *testing.T) {
	kdc := gsstest.NewKDC(service)
	c := login(t, kdc, gsstest.Login{})
	grant, err := acceptor(t, kdc, gssapi.Options{}).Authenticate(t.Context(), attempt(c.Token))
	if err != nil {
		t.Fatal(err)
	}
	context, _ := c.Finish(grant.Reply)
	near, far := sockets(t)
	go func() { _, _ = gssapi.NewConn(near, near, context, gssapi.LevelIntegrity).Write([]byte("x")) }()
	if n, err := gssapi.NewConn(far, far, grant.Security, gssapi.LevelConfidentiality).Read(make([]byte, 9)); err == nil {
		t.Errorf("%d bytes read", n)
	}
}

// In an upgrade, or after a restart, what the predecessor has taken is taken no
// more.
func TestReplayByASuccessor(t *testing.T) {
	dir := t.TempDir()
	cache := func() *gssapi.ReplayCache {
		return gssapi.KeepReplays(authsvc.StateOptions{Directory: dir, Metrics: &metrics.New().Auth, OnError: func(err error) { t.Error(err) }})
	}
	kdc := gsstest.NewKDC(service)
	token := login(t, kdc, gsstest.Login{}).Token
	first := cache()
	if _, err := acceptor(t, kdc, gssapi.Options{Replays: first}).Authenticate(t.Context(), attempt(token)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = first.Serve(ctx)
	if _, err := acceptor(t, kdc, gssapi.Options{Replays: cache()}).Authenticate(t.Context(), attempt(token)); reasonOf(err) != authsvc.ReasonReplay {
		t.Errorf("the successor: %v", err)
	}
	passed, err := json.Marshal(first.Table().All())
	if err != nil {
		t.Fatal(err)
	}
	without := gssapi.KeepReplays(authsvc.StateOptions{Metrics: &metrics.New().Auth, Inherited: true})
	if err := without.Table().Add(passed); err != nil {
		t.Fatal(err)
	}
	if _, err := acceptor(t, kdc, gssapi.Options{Replays: without}).Authenticate(t.Context(), attempt(token)); reasonOf(err) != authsvc.ReasonReplay {
		t.Errorf("a successor without a directory: %v", err)
	}
}
