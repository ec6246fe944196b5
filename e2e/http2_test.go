package e2e

import (
	"bytes"
	"context"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestChromiumOverHTTP2: with an https proxy Chromium speaks HTTP/2, and has
// pages with TLS by tunnels and others by plain requests, all in one connection.
func TestChromiumOverHTTP2(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	secure := httptest.NewUnstartedServer(web.Config.Handler)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	d := start(t, newAuthority(t).tlsListener(""))
	for target, command := range map[string]string{web.URL: "GET", secure.URL: "<nil>"} {
		ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
		cmd := exec.CommandContext(ctx, program(t, "chromium", "chromium"),
			"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--ignore-certificate-errors",
			"--disable-background-networking", "--disable-component-update", "--disable-sync",
			"--user-data-dir="+t.TempDir(), "--proxy-server=https://"+d.address, "--proxy-bypass-list=<-loopback>",
			"--dump-dom", target+"/")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		cancel()
		if err != nil || !strings.Contains(stdout.String(), "hello from 127.0.0.1") {
			t.Errorf("%s: %v: shows %q\n%s", target, err, stdout.String(), stderr.String())
			continue
		}
		_, address, _ := strings.Cut(target, "://")
		d.find("of "+target, func(l line) bool {
			return l.text("target") == address && l.text("door") == "http2" && l.text("method") == command
		})
	}
}

// TestBigAnswerOverHTTP2: all that a destination says before it closes arrives, and
// then an end, however small the client's windows are: Envoy lost the last part of
// answers with "Connection: close".
func TestBigAnswerOverHTTP2(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	d := start(t, newAuthority(t).tlsListener(""))
	to := strings.TrimPrefix(web.URL, "http://")
	for range 3 {
		if got := sum(strings.NewReader(getOverHTTP2(t, d.address, to, "/big"))); got != bigSum() {
			t.Errorf("%s arrived", got)
		}
	}
}

// TestTicketsOverHTTP2: a browser that comes by TLS speaks HTTP/2, and brings its
// ticket for each stream: pages with TLS, by tunnels, and others.
func TestTicketsOverHTTP2(t *testing.T) {
	k := startKDC(t)
	web := origin(t, "127.0.0.1:0")
	secure := httptest.NewUnstartedServer(web.Config.Handler)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	d := start(t, "[auth.gssapi]\nkeytab = \""+k.keytab("HTTP/localhost")+"\"\n"+newAuthority(t).tlsListener(""))
	k.login()
	for _, target := range []string{web.URL, secure.URL} {
		ctx, cancel := context.WithTimeout(t.Context(), 4*patience)
		cmd := exec.CommandContext(ctx, program(t, "chromium", "chromium"),
			"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--ignore-certificate-errors",
			"--disable-background-networking", "--disable-component-update", "--disable-sync",
			"--user-data-dir="+t.TempDir(), "--proxy-server=https://localhost:"+port(d.address), "--proxy-bypass-list=<-loopback>",
			"--dump-dom", target+"/")
		cmd.Env = append(os.Environ(), k.etc...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		cancel()
		if err != nil || !strings.Contains(stdout.String(), "hello from 127.0.0.1") {
			t.Errorf("%s: %v: shows %q\n%s", target, err, stdout.String(), stderr.String())
			continue
		}
		_, address, _ := strings.Cut(target, "://")
		d.find("of "+target, func(l line) bool {
			return l.text("target") == address && l.text("auth") == "gssapi" && l.text("user") == "alice"
		})
	}
}
