package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// telling is a haproxy that takes a PROXY header on each of two ports, and
// answers with whom it names.
func telling(four, six string) string {
	return "frontend told\n  mode http\n  bind 127.0.0.1:" + four + " accept-proxy\n  bind [2001:db8::1]:" + six + " accept-proxy\n" +
		"  http-request return status 200 content-type text/plain lf-string \"from %[src] to %[dst]:%[dst_port] \"\n"
}

// A destination behind a rule with send_proxy learns who the client is, whatever
// it speaks to us: by either version, over either family, also when a load
// balancer's header told us. (haproxy answers what it has been told.)
func TestSendProxyToDestination(t *testing.T) {
	ca := newAuthority(t)
	four, six, p, over, unix := freePort(t), freePort(t), freePort(t), freePort(t), filepath.Join(t.TempDir(), "s")
	haproxy(t, telling(four, six)+"listen front\n  bind 198.51.100.1:15021\n  server s 127.0.0.1:"+p+" send-proxy\n")
	for _, version := range []string{"v1", "v2"} {
		t.Run(version, func(t *testing.T) {
			d := start(t, ca.tlsListener("name = \"over\"")+
				"[[listener]]\nname = \"plain\"\naddress = \"[::]:"+p+"\"\nproxy_protocol = \"optional\"\ntrusted_proxies = [\"127.0.0.1\"]\n"+
				"[[listener]]\nname = \"unix\"\naddress = \"unix:"+unix+"\"\n"+
				"[[forward]]\nupstream = \"direct\"\nsend_proxy = \""+version+"\"\n")
			d.find("of the listener over TLS", func(l line) bool {
				over = l.text("address")
				return l.text("msg") == "proxy listens" && l.text("name") == "over"
			})
			awaitPort(t, "198.51.100.1:15021")
			to4, to6 := "http://127.0.0.1:"+four+"/", "http://[2001:db8::1]:"+six+"/"
			from4 := "from 198.51.100.20 to 198.51.100.2:" + p + " "
			from6 := "from 2001:db8::1 to 2001:db8::1:" + p + " "
			at4, at6 := "198.51.100.2:"+p, "[2001:db8::1]:"+p
			for name, tt := range map[string]struct {
				want string
				args []string
			}{
				"SOCKS5":               {from4, []string{"--interface", "198.51.100.20", "--proxy", "socks5h://" + at4, to4}},
				"SOCKS4":               {from4, []string{"--interface", "198.51.100.20", "--proxy", "socks4a://" + at4, to4}},
				"CONNECT":              {from4, []string{"--interface", "198.51.100.20", "--proxytunnel", "--proxy", "http://" + at4, to4}},
				"two plain requests":   {from4 + from4, []string{"--interface", "198.51.100.20", "--proxy", "http://" + at4, to4, to4}},
				"IPv6":                 {from6, []string{"--interface", "2001:db8::1", "--proxy", "socks5h://" + at6, to6}},
				"IPv6 client, IPv4":    {from6, []string{"--interface", "2001:db8::1", "--proxy", "socks5h://" + at6, to4}},
				"behind haproxy":       {"from 198.51.100.21 to 198.51.100.1:15021 ", []string{"--interface", "198.51.100.21", "--proxy", "socks5h://198.51.100.1:15021", to4}},
				"unix, has no address": {"from 127.0.0.1 to 127.0.0.1:" + four + " ", []string{"--proxy", "socks5h://localhost" + unix, to4}},
			} {
				out := mustCurl(t, tt.args...)
				if out != tt.want {
					t.Errorf("%s: %q, want %q", name, out, tt.want)
				}
			}
			if got, want := overHTTP2(t, over, "127.0.0.1:"+four), "from 127.0.0.1 to "+over+" "; got != want {
				t.Errorf("HTTP/2: %q, want %q", got, want)
			}
		})
	}
}

// overHTTP2 is the answer to a request in a tunnel through a proxy of HTTP/2.
func overHTTP2(t *testing.T, proxy, to string) string {
	t.Helper()
	return getOverHTTP2(t, proxy, to, "/")
}

func getOverHTTP2(t *testing.T, proxy, to, path string) string {
	t.Helper()
	c, err := tls.Dial("tcp", proxy, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	h2, err := (&http2.Transport{DisableCompression: true}).NewClientConn(c) //nolint:staticcheck // the standard library's successor is newer than our Go
	if err != nil {
		t.Fatal(err)
	}
	body, in := io.Pipe()
	request := (&http.Request{Method: http.MethodConnect, URL: &url.URL{Host: to}, Host: to, Header: http.Header{}, Body: body, ContentLength: -1}).WithContext(t.Context())
	answer, err := h2.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	fmt.Fprintf(in, "GET %s HTTP/1.0\r\nHost: %s\r\n\r\n", path, to)
	all, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Errorf("HTTP/2: %v", err)
	}
	in.Close()
	_, text, _ := strings.Cut(string(all), "\r\n\r\n")
	return text
}

// A chain: we tell haproxy in front of another proxy who the client is, which
// tells that one, which tells the destination. Over TLS the header comes first.
func TestSendProxyToUpstream(t *testing.T) {
	ca := newAuthority(t)
	four, six, inner := freePort(t), freePort(t), freePort(t)
	start(t, ca.tlsListener("")+"[[listener]]\naddress = \"127.0.0.1:"+inner+"\"\nproxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]\n"+
		"[[forward]]\nupstream = \"direct\"\nsend_proxy = \"v2\"\n")
	haproxy(t, telling(four, six)+
		"listen back\n  bind 127.0.0.1:15031 accept-proxy\n  server s 127.0.0.1:"+inner+" send-proxy-v2\n"+
		fmt.Sprintf("listen secure\n  bind 127.0.0.1:15032 accept-proxy ssl crt %s\n  server s 127.0.0.1:%s send-proxy\n", bundle(t, ca), inner))
	awaitPort(t, "127.0.0.1:15032")
	for _, version := range []string{"v1", "v2"} {
		for _, via := range []string{"socks5://127.0.0.1:15031", "http://127.0.0.1:15031", "socks4a://127.0.0.1:15031", "socks5+tls://localhost:15032", "https://localhost:15032"} {
			t.Run(version+" "+via, func(t *testing.T) {
				p := freePort(t)
				config := writeFile(t, "c.toml", "[[listener]]\naddress = \"0.0.0.0:"+p+"\"\n[[upstream]]\nname = \"up\"\nvia = [\""+via+"\"]\nsend_proxy = \""+version+"\"\n[[forward]]\nupstream = \"up\"\n")
				cmd := exec.Command(binary, "--config", config, "--log-format", "json")
				cmd.Env = append(cmd.Environ(), "SSL_CERT_FILE="+ca.path("ca.pem"))
				d := startCommand(t, cmd)
				want := "from 198.51.100.22 to 198.51.100.2:" + p + " "
				for _, scheme := range []string{"socks5h", "http"} {
					if out := mustCurl(t, "--interface", "198.51.100.22", "--proxy", scheme+"://198.51.100.2:"+p, "http://127.0.0.1:"+four+"/"); out != want {
						t.Errorf("%s: %q, want %q", scheme, out, want)
					}
				}
				if up := d.metric(`cleversocks_upstream_up{upstream="up",member="` + via + `"}`); up != "1" {
					t.Errorf("up: %q", up)
				}
			})
		}
	}
}

// bundle is a certificate with its key in one file, as haproxy wants it.
func bundle(t *testing.T, ca *authority) string {
	t.Helper()
	ca.issue("front", "localhost")
	return writeFile(t, "front.pem", readFile(t, ca.path("front.crt"))+readFile(t, ca.path("front.key")))
}

// What cannot be is refused before anything runs.
func TestSendProxyExcludes(t *testing.T) {
	for text, want := range map[string]string{
		"[[upstream]]\nname = \"up\"\nvia = [\"socks5://127.0.0.1:1\"]\nsend_proxy = \"v2\"\npool = { warm = 2 }\n[[forward]]\nupstream = \"up\"\n": "upstream[0].pool.warm",
		"[[upstream]]\nname = \"up\"\nvia = [\"socks5://127.0.0.1:1\"]\n[[forward]]\nupstream = \"up\"\nsend_proxy = \"v1\"\n":                      "forward[0].send_proxy",
		"[[forward]]\nupstream = \"reject\"\nsend_proxy = \"v1\"\n":                                                                                 "forward[0].send_proxy",
		"[[forward]]\nupstream = \"direct\"\nsend_proxy = \"v3\"\n":                                                                                 "send_proxy",
	} {
		out, err := run(t, nil, binary, "check", "--config", writeFile(t, "c.toml", text))
		if err == nil || !strings.Contains(out, want) || !strings.Contains(out, "c.toml:") {
			t.Errorf("%v: %s", err, out)
		}
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Behind a load balancer on this host the ports that BIND and UDP ASSOCIATE open
// are on the address that the client knows, which is the load balancer's, and the
// client's real address is the one whose datagrams count. One on another host
// has an address that nothing here can be bound to: then it is our own.
func TestCommandsBehindHaproxy(t *testing.T) {
	echo := udpEcho(t, "127.0.0.1:0")
	p := freePort(t)
	start(t, "[[listener]]\naddress = \"127.0.0.1:"+p+"\"\nproxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]\n")
	haproxy(t, "listen front\n  bind 198.51.100.1:15041\n  server s 127.0.0.1:"+p+" send-proxy-v2\n")
	awaitPort(t, "198.51.100.1:15041")

	control := dialProxyFrom(t, "198.51.100.1:15041", "198.51.100.40")
	send(t, control, 5, 1, 0)
	receive(t, control, 2)
	send(t, control, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0)
	code, relay := bindReply(t, control)
	if code != succeeded || relay.Addr().String() != "198.51.100.1" {
		t.Fatalf("associate: reply %d, %s", code, relay)
	}
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP("198.51.100.40")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	(&association{t: t, control: control, socket: socket, relay: relay}).echoes(echo.Addr().String(), echo, "behind haproxy")

	control = dialProxyFrom(t, "198.51.100.1:15041", "198.51.100.40")
	send(t, control, 5, 1, 0)
	receive(t, control, 2)
	send(t, control, 5, 2, 0, 1, 198, 51, 100, 41, 0, 0)
	code, at := bindReply(t, control)
	if code != succeeded || at.Addr().String() != "198.51.100.1" {
		t.Fatalf("bind: reply %d, %s", code, at)
	}
	peer, err := connectFrom(t, "198.51.100.41", at)
	if err != nil {
		t.Fatal(err)
	}
	if code, from := bindReply(t, control); code != succeeded || from.String() != peer.LocalAddr().String() {
		t.Errorf("bind: second reply %d, %s", code, from)
	}

	far := dialProxy(t, "127.0.0.1:"+p)
	send(t, far, []byte("PROXY TCP4 198.51.100.40 203.0.113.9 4000 1080\r\n\x05\x01\x00")...)
	receive(t, far, 2)
	send(t, far, 5, 3, 0, 1, 0, 0, 0, 0, 0, 0)
	if code, relay := bindReply(t, far); code != succeeded || relay.Addr().String() != "127.0.0.1" {
		t.Errorf("behind one far away: reply %d, %s", code, relay)
	}
}

// With a PROXY header allow_from means the client, whom the load balancer's own
// address does not let in; without one, and from others, it is the peer.
func TestAllowFromBehindHaproxy(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	p := freePort(t)
	d := start(t, "[[listener]]\naddress = \"0.0.0.0:"+p+"\"\nproxy_protocol = \"optional\"\ntrusted_proxies = [\"127.0.0.1\"]\nallow_from = [\"198.51.100.50\"]\n")
	haproxy(t, "listen front\n  bind 198.51.100.1:15051\n  server s 127.0.0.1:"+p+" send-proxy-v2\n")
	awaitPort(t, "198.51.100.1:15051")
	refused := `cleversocks_connections_refused_total{reason="source"}`
	before := d.metric(refused) // awaitPort's connection may count
	for _, tt := range []struct {
		source, proxy string
		served        bool
	}{
		{"198.51.100.50", "198.51.100.1:15051", true},
		{"198.51.100.51", "198.51.100.1:15051", false},
		{"198.51.100.50", "198.51.100.2:" + p, true},
		{"198.51.100.51", "198.51.100.2:" + p, false},
		{"127.0.0.1", "127.0.0.1:" + p, false}, // trusted, sends no header, and is not in the list itself
	} {
		out, err := curl(t, "--interface", tt.source, "--proxy", "socks5h://"+tt.proxy, web.URL+"/")
		if served := err == nil && strings.Contains(out, "hello from"); served != tt.served {
			t.Errorf("%s by %s: served %v: %q %v", tt.source, tt.proxy, served, out, err)
		}
	}
	if after := d.metric(refused); after == before {
		t.Error("the refused are not counted")
	}
}
