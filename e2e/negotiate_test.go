package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// managed gives Chromium a file of an administrator's policies, in place of the
// machine's, until the test ends.
func managed(t *testing.T, policies string) {
	t.Helper()
	etc := t.TempDir()
	dir := filepath.Join(etc, "policies", "managed")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cleversocks.json"), []byte(policies), 0o644); err != nil {
		t.Fatal(err)
	}
	const place = "/etc/chromium" // there with Debian's package
	if err := syscall.Mount(etc, place, "", syscall.MS_BIND, ""); err != nil {
		t.Fatalf("mount %s: %v", place, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(place, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// Chromium finds the proxy, and what it may log in to, in the policies of
// docs/kerberos.md. It logs in with the user's ticket, and shows no page without
// one. The allowlist of servers makes no difference: it trusts the proxy that it
// was given, unlike the servers behind it.
func TestNegotiateWithChromium(t *testing.T) {
	k := startKDC(t)
	web := origin(t, "127.0.0.1:0")
	d := start(t, "[auth.gssapi]\nkeytab = \""+k.keytab("HTTP/localhost")+"\"\n")
	page := "http://127.0.0.1:" + port(web.Listener.Addr().String()) + "/"
	proxy := byProxy("http://localhost:" + port(d.address))
	if shown, _, _ := dump(t, k.etc, page, proxy...); strings.Contains(shown, "hello from") {
		t.Errorf("without a ticket, it shows %q", shown)
	}
	k.login()
	shown, said, err := dump(t, k.etc, page, append(proxy, "--auth-server-allowlist=elsewhere.example")...)
	if err != nil || !strings.Contains(shown, "hello from 127.0.0.1") {
		t.Fatalf("another server allowed, %v: shows %q\n%s", err, shown, said)
	}
	d.find("of alice's page", func(l line) bool {
		return l["msg"] == "connection" && l["user"] == "alice" && l["auth"] == "gssapi" && l["protocol"] == "http"
	})
	managed(t, fmt.Sprintf(`{
	"ProxySettings": {"ProxyMode": "fixed_servers", "ProxyServer": "http://localhost:%s", "ProxyBypassList": "<-loopback>"},
	"AuthSchemes": "negotiate",
	"AuthServerAllowlist": "localhost"
}`, port(d.address)))
	before := d.metric(`cleversocks_auth_total{method="gssapi",outcome="ok"}`)
	shown, said, err = dump(t, k.etc, page)
	if err != nil || !strings.Contains(shown, "hello from 127.0.0.1") {
		t.Fatalf("by policy, %v: shows %q\n%s", err, shown, said)
	}
	if after := d.metric(`cleversocks_auth_total{method="gssapi",outcome="ok"}`); after == before {
		t.Errorf("by policy, it did not come here: %s log-ins, as before", after)
	}
}
