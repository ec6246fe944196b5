package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// runPeer runs a program until the end of the test, or until the returned
// function kills it, and waits until it accepts on the address.
func runPeer(t *testing.T, address string, command ...string) (kill func()) {
	t.Helper()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait()
	}()
	kill = func() {
		_ = cmd.Process.Kill()
		<-exited
	}
	t.Cleanup(kill)
	deadline := time.Now().Add(patience)
	for {
		c, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			c.Close()
			return kill
		}
		select {
		case <-exited:
			t.Fatalf("%v ended: %s", command, output.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%v does not accept on %s", command, address)
		}
		pause := time.NewTimer(10 * time.Millisecond)
		<-pause.C
	}
}

// microsocks is a SOCKS5 proxy, with a user and password when given.
func microsocks(t *testing.T, login ...string) (address string, kill func()) {
	t.Helper()
	p := freePort(t)
	command := []string{program(t, "microsocks", "microsocks"), "-i", "127.0.0.1", "-p", p}
	if len(login) > 0 {
		command = append(command, "-u", login[0], "-P", login[1])
	}
	address = "127.0.0.1:" + p
	return address, runPeer(t, address, command...)
}

// dante is a SOCKS4 and SOCKS5 proxy without authentication.
func dante(t *testing.T) (address string) {
	t.Helper()
	p := freePort(t)
	conf := filepath.Join(t.TempDir(), "danted.conf")
	text := fmt.Sprintf(`logoutput: stderr
internal: 127.0.0.1 port = %s
external: lo
clientmethod: none
socksmethod: none
user.privileged: root
user.unprivileged: root
client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }
`, p)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	address = "127.0.0.1:" + p
	runPeer(t, address, program(t, "danted", "dante-server"), "-f", conf)
	return address
}

// mustFetch gets a page through the daemon, with the name resolved there.
func mustFetch(t *testing.T, d *daemon, url string) {
	t.Helper()
	if out := mustCurl(t, "--proxy", "socks5h://"+d.address, url); !strings.Contains(out, "hello from") {
		t.Fatalf("%s: got %q", url, out)
	}
}

func TestUpstreamsOfEveryKind(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	webAddr := strings.TrimPrefix(web.URL, "http://")
	// Not localhost, of which microsocks takes ::1 alone.
	byName := "http://origin.example:" + port(webAddr) + "/"
	small, _ := microsocks(t, "joe", "s3cret")
	big := dante(t)
	ours := start(t, "")
	for name, tt := range map[string]struct{ via, resolve string }{
		"microsocks with a password": {`"socks5://joe:s3cret@` + small + `"`, "remote"},
		"dante, SOCKS5":              {`"socks5://` + big + `"`, "remote"},
		"ourselves, SOCKS4a":         {`"socks4a://` + ours.address + `"`, "remote"},
		"ourselves, HTTP CONNECT":    {`"http://` + ours.address + `"`, "remote"},
		"from a file":                {`"file:` + writeFile(t, "exit.url", "socks5://joe:s3cret@"+small+"\n") + `"`, "remote"},
		"dante, SOCKS4, resolved":    {`"socks4://` + big + `"`, "local"},
		"dante, then microsocks":     {`"socks5://` + big + `", "socks5://joe:s3cret@` + small + `"`, "remote"},
		"microsocks, then dante":     {`"socks5://joe:s3cret@` + small + `", "socks4://` + big + `"`, "local"},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, fmt.Sprintf("[[upstream]]\nname = \"exit\"\nvia = [%s]\nresolve = %q\n[[forward]]\nupstream = \"exit\"\n", tt.via, tt.resolve))
			for _, url := range []string{web.URL + "/", byName} {
				mustFetch(t, d, url)
			}
			// A plain request of an HTTP proxy's goes the same way.
			if out := mustCurl(t, "--proxy", "http://"+d.address, byName); !strings.Contains(out, "hello from") {
				t.Errorf("a plain request: %q", out)
			}
			d.find("of the plain request", func(l line) bool { return l.text("protocol") == "http" && l.text("upstream") == "exit" })
			got := d.record("origin.example:" + port(webAddr))
			if got.text("upstream") != "exit" || got.text("reply") != "succeeded" {
				t.Errorf("record %v", got)
			}
			if want := map[string]string{"remote": "<nil>", "local": webAddr}[tt.resolve]; got.text("host_ip") != want {
				t.Errorf("host_ip %s, want %s", got.text("host_ip"), want)
			}
			if strings.Contains(d.log(), "s3cret") {
				t.Error("the password is in the log")
			}
			_, metrics := d.get("/metrics")
			if strings.Contains(metrics, "s3cret") {
				t.Error("the password is in the metrics")
			}
			eventually(t, "the tunnels are given back", func() bool {
				return strings.Contains(metricLines(d, "cleversocks_upstream_active"), " 0\n")
			})
		})
	}
}

// metricLines are the lines of a metric's series.
func metricLines(d *daemon, name string) string {
	d.t.Helper()
	_, body := d.get("/metrics")
	var b strings.Builder
	for l := range strings.Lines(body) {
		if strings.HasPrefix(l, name) {
			b.WriteString(l)
		}
	}
	return b.String()
}

// TestForwardFlag is microsocks' -f.
func TestForwardFlag(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	webAddr := strings.TrimPrefix(web.URL, "http://")
	proxy, _ := microsocks(t, "joe", "s3cret,x")
	d := start(t, "", "-f", "magic.test:80,joe:s3cret,x@"+proxy+","+webAddr, "-f", "refused.test:0,127.0.0.1:1,:0")
	mustFetch(t, d, "http://magic.test/")
	got := d.record("magic.test:80")
	if got.text("upstream") != "-f1" || got.text("rule") != "default" {
		t.Errorf("record %v", got)
	}
	if out, err := curl(t, "--proxy", "socks5h://"+d.address, "http://refused.test/"); err == nil {
		t.Errorf("got %q through nothing", out)
	}
	if got := d.record("refused.test:80"); got.text("upstream") != "-f2" || got.text("reply") != "general_failure" {
		t.Errorf("record %v", got)
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", d.Cmd.Process.Pid))
	if err != nil || strings.Contains(string(cmdline), "s3cret") {
		t.Errorf("the command line shows the password: %q, %v", cmdline, err)
	}
}

// TestSilentUpstream: a proxy that accepts and says nothing costs no more than
// connect_timeout, and another member is tried within that.
func TestSilentUpstream(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	silent := freePort(t)
	l, err := net.Listen("tcp", "127.0.0.1:"+silent)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	working, _ := microsocks(t)
	const upstream = "[limits]\nconnect_timeout = \"%s\"\n[[upstream]]\nname = \"exit\"\nmembers = [%s]\nhealth = { interval = \"1h\", timeout = \"1m\" }\n" +
		"[[forward]]\nupstream = \"exit\"\n"
	d := start(t, fmt.Sprintf(upstream, "1s", `"socks5://127.0.0.1:`+silent+`"`))
	if _, reply := connect(t, d.address, echo); reply != ttlExpired {
		t.Errorf("silent: reply %d", reply)
	}
	d = start(t, fmt.Sprintf(upstream, "6s", `"socks5://127.0.0.1:`+silent+`", "socks5://`+working+`"`))
	for range 2 { // one of these begins with the silent member
		if _, reply := connect(t, d.address, echo); reply != succeeded {
			t.Errorf("with another member: reply %d", reply)
		}
	}
}

const ttlExpired = 6
