package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// secureOrigin is origin over TLS.
func secureOrigin(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	plain := origin(t, "127.0.0.1:0")
	s := httptest.NewUnstartedServer(plain.Config.Handler)
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s.Listener.Close()
	s.Listener = l
	s.StartTLS()
	t.Cleanup(s.Close)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// bannerServer speaks first, as those of mail and SSH do.
func bannerServer(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	return tcpServer(t, address, func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "220 hello\r\n")
		_, _ = io.Copy(c, c)
	})
}

// Domain fronting asks the proxy for one name and the server behind it for
// another. With sni = "match" the hello is refused, whatever protocol the tunnel
// was asked for by, and TLS itself tells the client why.
func TestSNIMatch(t *testing.T) {
	web := secureOrigin(t, "127.0.0.1:0")
	d := start(t, "[[listener]]\naddress = \"127.0.0.1:0\"\nsni = \"match\"\n")
	p := fmt.Sprint(web.Port())
	for _, scheme := range []string{"socks5h", "socks4a", "http"} {
		proxy := scheme + "://" + d.address
		for name, args := range map[string][]string{
			"the name":                   {"https://origin.example:" + p + "/"},
			"in capitals":                {"https://ORIGIN.example:" + p + "/"},
			"an address and no name":     {"https://127.0.0.1:" + p + "/"},
			"an address that has a name": {"--connect-to", "origin.example:" + p + ":127.0.0.1:" + p, "https://origin.example:" + p + "/"},
		} {
			if out := mustCurl(t, append([]string{"--insecure", "--proxy", proxy}, args...)...); !strings.Contains(out, "hello from") {
				t.Errorf("%s: %s: %q", scheme, name, out)
			}
		}
		for name, to := range map[string]string{"a front": "origin.example:" + p, "an address of another": "127.0.0.1:" + p} {
			out, err := curl(t, "-sS", "--insecure", "--proxy", proxy, "--connect-to", "forbidden.example:"+p+":"+to, "https://forbidden.example:"+p+"/")
			if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
				t.Errorf("%s: %s: %v %q", scheme, name, err, out)
			}
		}
	}
	d.find("of the front", func(l line) bool {
		return l.text("sni") == "forbidden.example" && l.text("cause") == "denied" && l.text("rule") == "sni" && l.text("reply") == "succeeded" &&
			strings.Contains(l.text("err"), "origin.example was asked for")
	})
	if n := d.metric(`cleversocks_sni_total{outcome="mismatch"}`); n != "6" {
		t.Errorf("%s mismatches are counted", n)
	}
}

// copied is how many bytes the program has read by system calls: what is spliced is
// not among them.
func (d *daemon) copied() (bytes int) {
	d.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", d.Cmd.Process.Pid))
	if err != nil {
		d.t.Fatal(err)
	}
	if _, err := fmt.Sscanf(string(text), "rchar: %d", &bytes); err != nil {
		d.t.Fatalf("%v in %q", err, text)
	}
	return bytes
}

// Once the client's first words are judged, the tunnel is spliced as any other,
// whatever was held back of it.
func TestSplicedBehindSNI(t *testing.T) {
	web := secureOrigin(t, "127.0.0.1:0")
	d := start(t, "[[listener]]\naddress = \"127.0.0.1:0\"\nsni = \"match\"\n")
	before := d.copied()
	for _, scheme := range []string{"socks5h", "http"} {
		out := mustCurl(t, "--insecure", "--proxy", scheme+"://"+d.address, fmt.Sprintf("https://origin.example:%d/big", web.Port()))
		if sum(strings.NewReader(out)) != bigSum() {
			t.Errorf("%s: %d bytes", scheme, len(out))
		}
	}
	if n := d.copied() - before; n > bigSize/2 {
		t.Errorf("%d of %d bytes were copied", n, 2*bigSize)
	}
}

// What is not TLS passes, and a server that speaks first is heard at once; a
// hello in many segments is one, and one without a name is refused where a name
// was asked for.
func TestSNIOfOtherTunnels(t *testing.T) {
	web, banner, echo := secureOrigin(t, "127.0.0.1:0"), bannerServer(t, "127.0.0.1:0"), echoServer(t, "127.0.0.1:0")
	d := start(t, "[[listener]]\naddress = \"127.0.0.1:0\"\nsni = \"match\"\n[limits]\nhandshake_timeout = \"2s\"\n")
	before := d.baseline()
	c, code := connect(t, d.address, banner)
	if code != succeeded {
		t.Fatalf("reply %d", code)
	}
	if got := receive(t, c, 11); string(got) != "220 hello\r\n" {
		t.Errorf("the banner is %q", got)
	}
	echoes(t, c, "EHLO there")
	c.Close()
	c, _ = connect(t, d.address, echo)
	echoes(t, c, "SSH-2.0-client\r\n")
	c.Close()
	// A server that closes before its client has said anything.
	c, _ = connect(t, d.address, echo)
	_ = c.CloseWrite()
	if rest, err := io.ReadAll(c); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	c.Close()

	shake := func(c net.Conn, name string) error {
		conn := tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		defer conn.Close()
		return conn.Handshake()
	}
	for _, tt := range []struct {
		name, to string
		ok       bool
	}{
		{"origin.example", "origin.example", true}, {"", "127.0.0.1", true}, {"", "origin.example", false}, {"localhost", "origin.example", false},
	} {
		c, code := askByName(t, d.address, tt.to, web.Port())
		if code != succeeded {
			t.Fatalf("reply %d", code)
		}
		if err := shake(splitConn{c}, tt.name); (err == nil) != tt.ok {
			t.Errorf("%q to %s: %v", tt.name, tt.to, err)
		}
		c.Close()
	}
	// Bad input: a hello that never ends, and one that is none.
	for outcome, sent := range map[string]string{"unfinished": "\x16\x03\x01\x02\x00\x01\x00\x01", "malformed": "\x16\x03\x01\x00\x04\x02\x00\x00\x00"} {
		c, _ := askByName(t, d.address, "origin.example", web.Port())
		send(t, c, []byte(sent)...)
		if rest, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(rest), "\x02\x70") {
			t.Errorf("%s: %x, %v", outcome, rest, err)
		}
		c.Close()
		if got := d.settles(`cleversocks_sni_total{outcome="`+outcome+`"}`, "1"); got != "1" {
			t.Errorf("%s: %s counted", outcome, got)
		}
	}
	// A client and a server that both say nothing are no more than before.
	c, _ = connect(t, d.address, echo)
	c.Close()
	d.backTo(before)
}

// askByName asks for a name, or an address as one.
func askByName(t *testing.T, proxy, name string, port uint16) (*net.TCPConn, byte) {
	t.Helper()
	c := dialProxy(t, proxy)
	send(t, c, 5, 1, 0)
	receive(t, c, 2)
	send(t, c, append(append([]byte{5, 1, 0, 3, byte(len(name))}, name...), byte(port>>8), byte(port))...)
	return c, readReply(t, c)
}

// Rules judge the name that the client says, with the address that it asked for.
func TestSNIRules(t *testing.T) {
	web := secureOrigin(t, "127.0.0.1:0")
	ca := newAuthority(t)
	d := start(t, ca.tlsListener("sni = \"log\"")+"[acl]\nblock_private = false\n[[acl.rule]]\naction = \"deny\"\nto = [\"*.forbidden.example\"]\n")
	p := fmt.Sprint(web.Port())
	proxy := []string{"--insecure", "--proxy-insecure", "--proxytunnel", "--proxy", "https://" + d.address}
	if out := mustCurl(t, append(proxy, "--connect-to", "elsewhere.example:"+p+":127.0.0.1:"+p, "https://elsewhere.example:"+p+"/")...); !strings.Contains(out, "hello from") {
		t.Errorf("%q", out)
	}
	d.find("with the name", func(l line) bool {
		return l.text("sni") == "elsewhere.example" && l.text("target") == "127.0.0.1:"+p && l.text("reply") == "succeeded"
	})
	if out, err := curl(t, append(proxy, "--connect-to", "www.forbidden.example:"+p+":127.0.0.1:"+p, "https://www.forbidden.example:"+p+"/")...); err == nil {
		t.Errorf("served: %q", out)
	}
	d.find("of the denied name", func(l line) bool {
		return l.text("sni") == "www.forbidden.example" && l.text("cause") == "denied" && l.text("rule") == "acl.rules[0]"
	})
	if answer := overHTTP2(t, d.address, "127.0.0.1:"+p); !strings.Contains(answer, "HTTPS server") {
		t.Errorf("no TLS over HTTP/2: %q", answer) // the server's own words for plain HTTP
	}
}

// A transparent client asks for an address; what it says first has the name that
// rules know, of TLS and of plain HTTP. The address that is dialed stays its own.
func TestTransparentSNI(t *testing.T) {
	client := newBehind(t)
	four, six := serverFar(t)
	secure, banner := secureOrigin(t, "198.51.100.7:0"), bannerServer(t, "198.51.100.7:0")
	p := freePort(t)
	d := start(t, "[[listener]]\naddress = \"[::]:"+p+"\"\ntransparent = \"redirect\"\nsni = \"log\"\n[acl]\nblock_private = false\ndefault = \"deny\"\n"+
		"[[acl.rule]]\naction = \"allow\"\nto = [\"*.good.example\"]\n[[acl.rule]]\naction = \"allow\"\nports = ["+fmt.Sprint(banner.Port())+"]\n")
	loadRules(t, "redirect.nft", "cleversocks_redirect", "inside=lan0", "proxy_port="+p)
	get := func(scheme, name string, at netip.AddrPort) (string, error) {
		return client.run("curl", "-sS", "--insecure", "--noproxy", "*", "--max-time", "15",
			"--connect-to", fmt.Sprintf("%s:%d:%s", name, at.Port(), at), fmt.Sprintf("%s://%s:%d/", scheme, name, at.Port()))
	}
	for _, tt := range []struct {
		scheme, name string
		at           netip.AddrPort
		ok           bool
	}{
		{"http", "a.good.example", four, true},
		{"http", "a.good.example", six, true},
		{"http", "a.bad.example", four, false},
		{"https", "b.good.example", secure, true},
		{"https", "b.bad.example", secure, false},
		{"http", "198.51.100.7", four, false},
	} {
		out, err := get(tt.scheme, tt.name, tt.at)
		if served := err == nil && strings.Contains(out, "hello from"); served != tt.ok {
			t.Errorf("%+v: %v %q", tt, err, out)
		}
	}
	before := d.copied()
	out, err := client.run("curl", "-sS", "--noproxy", "*", "--max-time", "15", "--connect-to", fmt.Sprintf("a.good.example:%d:%s", four.Port(), four), fmt.Sprintf("http://a.good.example:%d/big", four.Port()))
	if err != nil || sum(strings.NewReader(out)) != bigSum() {
		t.Errorf("%v, %d bytes", err, len(out))
	}
	if n := d.copied() - before; n > bigSize/2 {
		t.Errorf("%d of %d bytes were copied", n, bigSize)
	}
	d.find("with the name of TLS", func(l line) bool {
		return l.text("sni") == "b.good.example" && l.text("target") == secure.String() && l.text("host_ip") == secure.String()
	})
	d.find("of what was denied", func(l line) bool { return l.text("sni") == "b.bad.example" && l.text("cause") == "denied" })
	// A server that speaks first is not waited for in vain.
	if out, _ := client.run("timeout", "5", "bash", "-c", fmt.Sprintf("read -r -t 4 x < /dev/tcp/198.51.100.7/%d; echo \"$x\"", banner.Port())); !strings.Contains(out, "220 hello") {
		t.Errorf("the banner is %q", out)
	}
}
