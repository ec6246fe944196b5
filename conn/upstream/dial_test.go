package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cleversocks/conn/wire"
	"cleversocks/e2e/need"
)

func TestDialEveryProtocol(t *testing.T) {
	p := &proxy{user: "alice", password: "hunter2"}
	four := &proxy{user: "alice"}
	open := &proxy{}
	tests := map[string]struct {
		handle func(net.Conn)
		scheme string
		auth   string
		tls    bool
	}{
		"socks5":                {open.socks5, "socks5", "", false},
		"socks5 with a user":    {p.socks5, "socks5", "alice:hunter2@", false},
		"socks5 over TLS":       {p.socks5, "socks5+tls", "alice:hunter2@", true},
		"socks4a":               {four.socks4, "socks4a", "alice@", false},
		"socks4a over TLS":      {four.socks4, "socks4a+tls", "alice@", true},
		"http":                  {open.http, "http", "", false},
		"http with a user":      {p.http, "http", "alice:hunter2@", false},
		"https":                 {p.http, "https", "alice:hunter2@", true},
		"a user nobody asks of": {open.socks5, "socks5", "alice:hunter2@", false},
	}
	dest := addr(t, echo(t))
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var at string
			var cfg *tls.Config
			if tt.tls {
				at, cfg = overTLS(t, tt.handle)
			} else {
				at = serve(t, tt.handle)
			}
			o := options(Upstream{Via: []string{tt.scheme + "://" + tt.auth + at}})
			o.TLS = cfg
			r := compile(t, o)
			conn, info, err := r.Route(Query{Dest: dest}).Dial(t.Context(), dest)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if _, bare := conn.(*net.TCPConn); bare == tt.tls {
				t.Errorf("the connection is a %T", conn)
			}
			if strings.Contains(info.Member, "hunter2") || !info.Local.IsValid() {
				t.Errorf("info %+v", info)
			}
			roundTrip(t, conn)
			if n := r.pools[0].members[0].metrics.Active.Load(); n != 1 {
				t.Errorf("%d active", n)
			}
			info.Release()
			info.Release()
			if n := r.pools[0].members[0].metrics.Active.Load(); n != 0 {
				t.Errorf("%d active after the end", n)
			}
		})
	}
}

// TestChain passes four hops of different protocols, one of them over TLS.
func TestChain(t *testing.T) {
	p := &proxy{}
	overTLSAt, cfg := overTLS(t, p.http)
	o := options(Upstream{Via: []string{
		"socks5://" + serve(t, p.socks5), "https://" + overTLSAt,
		"socks4a://" + serve(t, p.socks4), "http://" + serve(t, p.http),
	}})
	o.TLS = cfg
	dest := addr(t, echo(t))
	conn, info, err := compile(t, o).Route(Query{Dest: dest}).Dial(t.Context(), dest)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(); info.Release() }()
	roundTrip(t, conn)
	if n := p.accepted.Load(); n != 4 {
		t.Errorf("%d hops passed", n)
	}
}

// TestErrors: what went wrong is told apart, and no secret is in it.
func TestErrors(t *testing.T) {
	destination := addr(t, need.Refusing(t).String())
	locked := &proxy{user: "u", password: "p"}
	open := &proxy{}
	tests := map[string]struct {
		via   string
		code  wire.ReplyCode
		fault bool
		is    error
	}{
		"socks5 destination refuses": {"socks5://" + serve(t, open.socks5), wire.ReplyConnectionRefused, false, ErrRefused},
		"socks5 not allowed":         {"socks5://" + serve(t, (&proxy{code: 2}).socks5), wire.ReplyNotAllowed, false, ErrRefused},
		"socks5 odd code":            {"socks5://" + serve(t, (&proxy{code: 99}).socks5), wire.ReplyGeneralFailure, false, ErrRefused},
		"socks4 destination":         {"socks4a://" + serve(t, open.socks4), wire.ReplyGeneralFailure, false, ErrRefused},
		"http destination":           {"http://" + serve(t, open.http), wire.ReplyConnectionRefused, false, ErrRefused},
		"hop refuses":                {"socks5://" + need.Refusing(t).String(), wire.ReplyGeneralFailure, true, nil},
		"hop refuses, http":          {"http://" + need.Refusing(t).String(), wire.ReplyGeneralFailure, true, nil},
		"no method":                  {"socks5://" + serve(t, locked.socks5), wire.ReplyGeneralFailure, true, ErrMethods},
		"wrong password":             {"socks5://x:hunter2@" + serve(t, locked.socks5), wire.ReplyGeneralFailure, true, ErrCredentials},
		"wrong password, http":       {"http://x:hunter2@" + serve(t, locked.http), wire.ReplyGeneralFailure, true, ErrCredentials},
		"speaks something else":      {"socks5://" + serve(t, garbage), wire.ReplyGeneralFailure, true, ErrNotSOCKS5},
		"speaks something else, 4":   {"socks4a://" + serve(t, garbage), wire.ReplyGeneralFailure, true, nil},
		"no TLS there":               {"https://" + serve(t, garbage), wire.ReplyGeneralFailure, true, nil},
		"hangs up":                   {"socks5://" + serve(t, func(net.Conn) {}), wire.ReplyGeneralFailure, true, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := compile(t, options(Upstream{Via: []string{tt.via}}))
			_, info, err := r.Route(Query{Dest: destination}).Dial(t.Context(), destination)
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Code != tt.code || e.HopFault != tt.fault || tt.is != nil && !errors.Is(err, tt.is) {
				t.Fatalf("%+v", err)
			}
			if e.Upstream != "up" || e.Hop == "" || strings.Contains(fmt.Sprintf("%v %+v %#v", err, e, r.pools[0].members[0].hops), "hunter2") {
				t.Errorf("error %v", err)
			}
			info.Release()
			if n := r.pools[0].members[0].metrics.Active.Load(); n != 0 {
				t.Errorf("%d active", n)
			}
		})
	}
}

func garbage(c net.Conn) {
	_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n")
	_, _ = io.Copy(io.Discard, c)
}

// TestSlowHop: a hop that sends one byte and then none ends with the context.
func TestSlowHop(t *testing.T) {
	slow := func(c net.Conn) {
		_, _ = c.Write([]byte{5})
		_, _ = io.Copy(io.Discard, c)
	}
	dest := wire.Addr{Name: "example.org", Port: 80}
	for _, scheme := range []string{"socks5://", "socks4a://", "https://"} {
		r := compile(t, options(Upstream{Via: []string{scheme + serve(t, slow)}}))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, _, err := r.Route(Query{Dest: dest}).Dial(ctx, dest)
		cancel()
		if e, ok := errors.AsType[*Error](err); !ok || scheme == "socks5://" && e.Code != wire.ReplyTTLExpired {
			t.Errorf("%s: %v", scheme, err)
		}
	}
}

// TestClientGone: a client's cancelling is not held against the member.
func TestClientGone(t *testing.T) {
	here := make(chan struct{}, 1)
	r := compile(t, options(Upstream{Health: Health{Failures: 1}, Via: []string{"socks5://" + serve(t, func(c net.Conn) {
		here <- struct{}{}
		_, _ = io.Copy(io.Discard, c)
	})}}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-here; cancel() }()
	dest := wire.Addr{Name: "example.org", Port: 80}
	if _, _, err := r.Route(Query{Dest: dest}).Dial(ctx, dest); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if !r.pools[0].members[0].isUp() {
		t.Error("the member is out")
	}
}

// TestNamesGoAsTheyAre: with remote resolution the upstream is told the name,
// rewritten if a rule says so.
func TestNamesGoAsTheyAre(t *testing.T) {
	p := &proxy{code: 4, asked: make(chan string, 8)}
	o := options(Upstream{Via: []string{"socks5h://" + serve(t, p.socks5)}})
	o.Forward = []Rule{{To: []string{"*.onion"}, Upstream: "up", Rewrite: ":8443"}, {Upstream: "up"}}
	r := compile(t, o)
	for in, want := range map[string]string{"a.onion:80": "a.onion:8443", "b.example:80": "b.example:80", "[2001:db8::1]:80": "[2001:db8::1]:80"} {
		route := r.Route(Query{Dest: addr(t, in)})
		_, _, _ = route.Dial(t.Context(), route.Dest)
		if got := <-p.asked; got != want {
			t.Errorf("asked for %s, want %s", got, want)
		}
	}
}

// TestAddressesInTurn: of a destination's addresses the next is tried when
// one cannot be reached.
func TestAddressesInTurn(t *testing.T) {
	p := &proxy{}
	r := compile(t, options(Upstream{ResolveLocally: true, Via: []string{"socks4://" + serve(t, p.socks4)}}))
	good := addr(t, echo(t))
	route := r.Route(Query{Dest: wire.Addr{Name: "example.org", Port: 80}})
	if !route.ResolvesLocally() {
		t.Error("resolves there")
	}
	six := wire.Addr{IP: netip.MustParseAddr("2001:db8::1"), Port: 80}
	conn, info, err := route.Dial(t.Context(), six, addr(t, need.Refusing(t).String()), good)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(); info.Release() }()
	roundTrip(t, conn)
}

// TestHopAddresses: a hop whose first address takes the connection and then
// fails the handshake is tried on its others.
func TestHopAddresses(t *testing.T) {
	good := addr(t, serve(t, (&proxy{}).socks5))
	var lc net.ListenConfig
	bad, err := lc.Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.2:%d", good.Port))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, aerr := bad.Accept()
			if aerr != nil {
				return
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = bad.Close(); <-done })
	o := options(Upstream{Via: []string{fmt.Sprintf("socks5://hop.example:%d", good.Port)}})
	o.Resolve = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("127.0.0.1")}, nil
	}
	o.Dial = func(ctx context.Context, a wire.Addr) (*net.TCPConn, error) {
		if a.IsName() {
			a = wire.Addr{IP: netip.MustParseAddr("127.0.0.2"), Port: a.Port}
		}
		return tcpDial(ctx, a)
	}
	dest := addr(t, echo(t))
	conn, info, err := compile(t, o).Route(Query{Dest: dest}).Dial(t.Context(), dest)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(); info.Release() }()
	roundTrip(t, conn)
}

func TestAssociate(t *testing.T) {
	at := serve(t, (&proxy{}).socks5)
	route := compile(t, options(Upstream{Via: []string{"socks5://" + at}})).Route(Query{})
	control, relay, info, err := route.Associate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = control.Close(); info.Release() }()
	if want := netip.MustParseAddrPort("127.0.0.1:12345"); relay != want {
		t.Errorf("relay %v, want %v: 0.0.0.0 means the address that the server was reached at", relay, want)
	}
	chained := compile(t, options(Upstream{Via: []string{"socks5://" + at, "socks5://" + at}})).Route(Query{})
	_, _, _, err = chained.Associate(t.Context())
	if e, ok := errors.AsType[*Error](err); !ok || e.Code != wire.ReplyCommandNotSupported {
		t.Errorf("a chain: %v", err)
	}
}
