package e2e

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Chromium logs in with the user's ticket, and shows no page without one. Its
// allowlist of servers makes no difference: it trusts the proxy that it was
// given, unlike the servers behind it.
func TestNegotiateWithChromium(t *testing.T) {
	k := startKDC(t)
	web := origin(t, "127.0.0.1:0")
	d := start(t, "[auth.gssapi]\nkeytab = \""+k.keytab("HTTP/localhost")+"\"\n")
	page := "http://127.0.0.1:" + port(web.Listener.Addr().String()) + "/"
	load := func(allowlist string) (string, string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, program(t, "chromium", "chromium"),
			"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
			"--disable-background-networking", "--disable-component-update", "--disable-sync",
			"--user-data-dir="+t.TempDir(), "--proxy-server=http://localhost:"+port(d.address), "--proxy-bypass-list=<-loopback>",
			"--auth-server-allowlist="+allowlist, "--dump-dom", page)
		cmd.Env = append(os.Environ(), k.etc...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		return stdout.String(), stderr.String(), err
	}
	if shown, _, _ := load("localhost"); strings.Contains(shown, "hello from") {
		t.Errorf("without a ticket, it shows %q", shown)
	}
	k.login()
	for _, allowlist := range []string{"localhost", "elsewhere.example"} {
		shown, said, err := load(allowlist)
		if err != nil || !strings.Contains(shown, "hello from 127.0.0.1") {
			t.Fatalf("%s allowed, %v: shows %q\n%s", allowlist, err, shown, said)
		}
	}
	d.find("of alice's page", func(l line) bool {
		return l["msg"] == "connection" && l["user"] == "alice" && l["auth"] == "gssapi" && l["protocol"] == "http"
	})
}
