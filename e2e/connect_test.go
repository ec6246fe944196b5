package e2e

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
)

// The reply codes that the tests look for (RFC 1928 §6).
const (
	succeeded      = 0
	notAllowed     = 2
	refused        = 5
	cmdUnsupported = 7
)

func TestCurlReachesEveryKindOfTarget(t *testing.T) {
	four, six := origin(t, "127.0.0.1:0"), origin(t, "[::1]:0")
	fourPort, sixPort := port(four.Listener.Addr().String()), port(six.Listener.Addr().String())
	d := start(t, "")
	for name, tt := range map[string]struct{ scheme, url string }{
		"IPv4":                 {"socks5", "http://127.0.0.1:" + fourPort + "/"},
		"IPv6":                 {"socks5", "http://[::1]:" + sixPort + "/"},
		"name, resolved there": {"socks5h", "http://localhost:" + fourPort + "/"},
		"name, resolved here":  {"socks5", "http://localhost:" + fourPort + "/"},
		"literal as a name":    {"socks5h", "http://127.0.0.1:" + fourPort + "/"},
	} {
		t.Run(name, func(t *testing.T) {
			out := mustCurl(t, "--proxy", tt.scheme+"://"+d.address, tt.url)
			if !strings.Contains(out, "hello from") {
				t.Errorf("got %q", out)
			}
		})
	}
}

func TestCurlOverIPv6Listener(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	d := start(t, "[[listener]]\naddress = \"[::]:0\"\n")
	for _, host := range []string{"[::1]", "127.0.0.1", "192.0.2.1", "[2001:db8::1]"} {
		if out := mustCurl(t, "--proxy", "socks5h://"+host+":"+port(d.address), web.URL); !strings.Contains(out, "hello") {
			t.Errorf("through %s: %q", host, out)
		}
	}
	// A client over IPv4 is recorded as one.
	d.find("of an IPv4 client", func(l line) bool { return strings.HasPrefix(l.text("client"), "192.0.2.1:") })
}

func TestLargeTransfersArriveWhole(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	want := sum(bigBody())
	for _, engine := range []string{"auto", "splice", "copy"} {
		t.Run(engine, func(t *testing.T) {
			d := start(t, "[relay]\nengine = \""+engine+"\"\n")
			if got := sum(strings.NewReader(mustCurl(t, "--proxy", "socks5h://"+d.address, web.URL+"/big"))); got != want {
				t.Errorf("down: %s, want %s", got, want)
			}
			upload := exec.CommandContext(t.Context(), program(t, "curl", "curl"), "--silent", "--show-error", "--noproxy", "", "--upload-file", "-",
				"--proxy", "socks5h://"+d.address, web.URL+"/sum")
			upload.Stdin = bigBody()
			out, err := upload.CombinedOutput()
			if err != nil || string(out) != want {
				t.Errorf("up: %s, %v, want %s", out, err, want)
			}
			target := strings.TrimPrefix(web.URL, "http://")
			d.find("that counts the download", func(l line) bool {
				out, _ := l["bytes_out"].(float64)
				return l.text("target") == target && out > bigSize
			})
			d.find("that counts the upload", func(l line) bool {
				in, _ := l["bytes_in"].(float64)
				return l.text("target") == target && in > bigSize
			})
		})
	}
}

func TestChromiumLoadsAPage(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	d := start(t, "")
	page := "http://localhost:" + port(web.Listener.Addr().String()) + "/"
	shown, said, err := dump(t, nil, page, byProxy("socks5://"+d.address)...)
	if err != nil || !strings.Contains(shown, "hello from localhost") {
		t.Fatalf("%v: shows %q\n%s", err, shown, said)
	}
	d.record("localhost:" + port(web.Listener.Addr().String()))
}

func TestReplies(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := gone.Addr().(*net.TCPAddr).AddrPort()
	gone.Close()
	d := start(t, "")
	own := netip.MustParseAddrPort(d.address)
	admin := netip.MustParseAddrPort(d.admin)
	for name, tt := range map[string]struct {
		command byte
		to      netip.AddrPort
		want    byte
	}{
		"works":            {1, echo, succeeded},
		"refused":          {1, closed, refused},
		"itself":           {1, own, notAllowed},
		"itself, mapped":   {1, netip.AddrPortFrom(netip.MustParseAddr("::ffff:127.0.0.1"), own.Port()), notAllowed},
		"the admin":        {1, admin, notAllowed},
		"unknown command":  {9, echo, cmdUnsupported},
		"no route":         {1, netip.MustParseAddrPort("203.0.113.1:80"), 3},
		"no route to IPv6": {1, netip.MustParseAddrPort("[2001:db8:1::1]:80"), 3},
	} {
		t.Run(name, func(t *testing.T) {
			c := dialProxy(t, d.address)
			send(t, c, 5, 1, 0)
			receive(t, c, 2)
			if got := request(t, c, tt.command, tt.to); got != tt.want {
				t.Fatalf("reply %d, want %d", got, tt.want)
			}
			if tt.want == succeeded {
				echoes(t, c, "still there")
			} else if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("after the reply: %d bytes, %v; want the end", n, err)
			}
		})
	}
}

// The proxy is no way to reach itself, by whatever address or name.
func TestOwnListenersAreNoDestination(t *testing.T) {
	d := start(t, "[[listener]]\naddress = \"[::]:0\"\n")
	for _, host := range []string{"127.0.0.1", "127.9.9.9", "localhost", "192.0.2.1", "[2001:db8::1]", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:192.0.2.1]"} {
		out, err := curl(t, "--proxy", "socks5h://127.0.0.1:"+port(d.address), "http://"+host+":"+port(d.address)+"/")
		if err == nil || !strings.Contains(err.Error(), "(2)") {
			t.Errorf("%s: %q, %v; want reply 2", host, out, err)
		}
	}
}

func TestBoundAddressIsReal(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := start(t, "")
	c := dialProxy(t, d.address)
	send(t, c, 5, 1, 0)
	receive(t, c, 2)
	to := l.Addr().(*net.TCPAddr).AddrPort()
	send(t, c, append([]byte{5, 1, 0, 1, 127, 0, 0, 1}, byte(to.Port()>>8), byte(to.Port()))...)
	reply := receive(t, c, 10)
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	bound := netip.AddrPortFrom(netip.AddrFrom4([4]byte(reply[4:8])), uint16(reply[8])<<8|uint16(reply[9]))
	if got := peer.RemoteAddr().String(); got != bound.String() {
		t.Errorf("BND.ADDR %s, the server sees %s", bound, got)
	}
}
