package upstream

import (
	"bufio"
	"io"
	"net"
	"net/netip"
	"testing"

	"cleversocks/conn/wire"
	"cleversocks/listener/proxyproto"
)

// behindHeader takes a line of the PROXY protocol's version 1 off a connection
// before handle gets it, and tells it.
func behindHeader(headers chan<- string, handle func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		// By single bytes, for what follows belongs to handle.
		r := bufio.NewReaderSize(oneByOne{c}, 16)
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		headers <- line
		handle(c)
	}
}

type oneByOne struct{ r io.Reader }

func (o oneByOne) Read(b []byte) (int, error) { return o.r.Read(b[:1]) }

// The header comes ahead of TLS, names the client, and goes to the first hop
// alone; a probe has nobody to name.
func TestSendProxy(t *testing.T) {
	headers := make(chan string, 8)
	second := &proxy{}
	at, cfg := overTLS(t, (&proxy{}).http)
	front := serve(t, behindHeader(headers, func(c net.Conn) {
		out, err := net.Dial("tcp", at)
		if err != nil {
			return
		}
		splice(c, c, out)
	}))
	o := options(Upstream{Via: []string{"https://" + front, "socks5://" + serve(t, second.socks5)}, SendProxy: proxyproto.SendV1})
	o.TLS = cfg
	r := compile(t, o)
	dest := addr(t, echo(t))
	from := Origin{Client: netip.MustParseAddrPort("192.0.2.7:50000"), Local: netip.MustParseAddrPort("198.51.100.1:1080")}
	for _, tt := range []struct {
		from Origin
		want string
	}{
		{from, "PROXY TCP4 192.0.2.7 198.51.100.1 50000 1080\r\n"},
		{Origin{Local: from.Local}, "PROXY UNKNOWN\r\n"}, // a client on a unix socket
		{Origin{Client: from.Client, Local: netip.MustParseAddrPort("[2001:db8::1]:1080")}, "PROXY UNKNOWN\r\n"},
	} {
		conn, info, err := r.Route(Query{Dest: dest}).For(tt.from).Dial(t.Context(), dest)
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, conn)
		if got := <-headers; got != tt.want {
			t.Errorf("%q, want %q", got, tt.want)
		}
		_ = conn.Close()
		info.Release()
	}
	if n := second.accepted.Load(); n != 3 {
		t.Errorf("the second hop was reached %d times", n)
	}
	run(t, r) // probes
	if got := <-headers; got != "PROXY UNKNOWN\r\n" {
		t.Errorf("a probe's header is %q", got)
	}
}

// An association's control connection is a client's too, and so is one for plain
// HTTP requests.
func TestSendProxyOfOtherRequests(t *testing.T) {
	headers := make(chan string, 8)
	from := Origin{Client: netip.MustParseAddrPort("[2001:db8::7]:50000"), Local: netip.MustParseAddrPort("[2001:db8::1]:1080")}
	const want = "PROXY TCP6 2001:db8::7 2001:db8::1 50000 1080\r\n"
	r := compile(t, options(Upstream{Via: []string{"socks5://" + serve(t, behindHeader(headers, (&proxy{}).socks5))}, SendProxy: proxyproto.SendV1}))
	control, _, info, err := r.RouteDatagrams(Query{}).For(from).Associate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = control.Close()
	info.Release()
	if got := <-headers; got != want {
		t.Errorf("associate: %q", got)
	}
	r = compile(t, options(Upstream{Via: []string{"http://" + serve(t, behindHeader(headers, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }))}, SendProxy: proxyproto.SendV1}))
	conn, info, err := r.Route(Query{}).For(from).DialPlain(t.Context(), wire.Addr{Name: "example.org", Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	info.Release()
	if got := <-headers; got != want {
		t.Errorf("plain: %q", got)
	}
}
