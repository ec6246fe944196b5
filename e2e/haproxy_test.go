package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// haproxy runs a real one in front of the proxy.
func haproxy(t *testing.T, config string) {
	t.Helper()
	path := writeFile(t, "haproxy.cfg", "global\n  log stderr local0\ndefaults\n  mode tcp\n  timeout client 30s\n  timeout server 30s\n  timeout connect 5s\n"+config)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program(t, "haproxy", "haproxy"), "-db", "-f", path)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("haproxy: %s", out.String())
		}
	})
}

func TestBehindHaproxy(t *testing.T) {
	web, ca := origin(t, "127.0.0.1:0"), newAuthority(t)
	plain := "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]\n"
	d := start(t, plain+"\n[limits]\nmax_connections_per_ip = 1\n[[acl.rule]]\naction = \"deny\"\nfrom = [\"198.51.100.9\"]\n[[acl.rule]]\naction = \"allow\"\nto = [\"127.0.0.0/8\"]\n")
	over := start(t, ca.tlsListener("proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\"]"))
	front := func(port int, server string) string {
		return fmt.Sprintf("listen p%d\n  bind 198.51.100.1:%d\n  unique-id-format id-%%rt\n  server s %s\n", port, port, server)
	}
	haproxy(t, front(15001, d.address+" send-proxy")+front(15002, d.address+" send-proxy-v2")+
		front(15003, d.address+" send-proxy-v2 proxy-v2-options unique-id,crc32c")+
		front(15004, over.address+" send-proxy-v2 check check-ssl verify none inter 1s fall 3"))
	// A check of its own says LOCAL, and shakes hands; it is no client with a record.
	eventually(t, "haproxy's checks are answered", func() bool {
		n, _ := strconv.Atoi(over.metric(`cleversocks_tls_handshakes_total{outcome="ok"}`))
		return n > 1
	})
	if l := over.seen("connection"); l != nil {
		t.Errorf("a check is recorded as %v", l)
	}
	for p, tt := range map[string]struct {
		d    *daemon
		args []string
	}{
		"15001": {d, []string{"--proxy", "socks5h://198.51.100.1:15001"}},
		"15002": {d, []string{"--proxy", "socks5h://198.51.100.1:15002"}},
		"15003": {d, []string{"--proxy", "socks5h://198.51.100.1:15003"}},
		"15004": {over, []string{"--proxytunnel", "--proxy-insecure", "--proxy", "https://198.51.100.1:15004"}},
	} {
		awaitPort(t, "198.51.100.1:"+p)
		source := "198.51.100.2" + p[4:]
		if out := mustCurl(t, append(tt.args, "--interface", source, web.URL+"/")...); !strings.Contains(out, "hello from") {
			t.Errorf("%s: %q", p, out)
		}
		tt.d.find("of the client behind haproxy", func(l line) bool {
			return l.text("msg") == "connection" && strings.HasPrefix(l.text("client"), source+":")
		})
	}
	d.find("with haproxy's fields", func(l line) bool { return strings.HasPrefix(l.text("door"), "unique_id=id-") })

	// Rules mean the client, not haproxy.
	if out, err := curl(t, "--interface", "198.51.100.9", "--proxy", "socks5h://198.51.100.1:15002", web.URL+"/"); err == nil {
		t.Errorf("a denied client was served: %q", out)
	}
	// So do the limits: a second connection of one client is refused, while
	// all of haproxy's come from one address.
	first := dialProxyFrom(t, "198.51.100.1:15002", "198.51.100.30")
	send(t, first, 5, 1, 0)
	receive(t, first, 2)
	second := dialProxyFrom(t, "198.51.100.1:15002", "198.51.100.30")
	send(t, second, 5, 1, 0)
	if n, _ := second.Read(make([]byte, 2)); n != 0 {
		t.Error("a second connection of one client was served")
	}
	eventually(t, "the refusal is counted", func() bool {
		n, _ := strconv.Atoi(d.metric(`cleversocks_connections_refused_total{reason="ip_limit"}`))
		return n > 0 // and again where haproxy sees the reset before it has connected, and tries again
	})
}

// Nobody but a trusted proxy says who the client is.
func TestForgedProxyHeader(t *testing.T) {
	d := start(t, "[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"required\"\ntrusted_proxies = [\"192.0.2.7\"]\n"+
		"[[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"optional\"\ntrusted_proxies = [\"192.0.2.7\"]\n")
	forged := "PROXY TCP4 203.0.113.5 127.0.0.1 4000 1080\r\n\x05\x01\x00"
	if raw, err := net.Dial("tcp", d.address); err == nil { // the reset may come to the dial
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(patience))
		_, _ = raw.Write([]byte(forged))
		if n, err := raw.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Error("a stranger was served where a header is required")
		}
	}
	eventually(t, "the stranger is counted", func() bool {
		return d.metric(`cleversocks_connections_refused_total{reason="source"}`) == "1"
	})
	var optional string
	d.find("of the second listener", func(l line) bool {
		optional = l.text("address")
		return l.text("msg") == "proxy listens" && optional != d.address
	})
	c := dialProxy(t, optional)
	_, _ = c.Write([]byte(forged))
	if got, _ := io.ReadAll(c); len(got) > 0 && got[0] == 5 {
		t.Errorf("a forged header was believed: %x", got)
	}
	if strings.Contains(d.log(), "203.0.113.5") {
		t.Error("a forged address is in the log")
	}
}
