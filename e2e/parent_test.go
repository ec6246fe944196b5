package e2e

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestPlainRequestsThroughSquid: squid allows no CONNECT to port 80 by default,
// and gets plain requests as it wants them. What it refuses says so.
func TestPlainRequestsThroughSquid(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	l := freePort(t)
	config := writeFile(t, "squid.conf", fmt.Sprintf(`http_port 127.0.0.1:%s
acl CONNECT method CONNECT
acl secret url_regex /sum
acl ssl port 443
http_access deny CONNECT !ssl
http_access deny secret
http_access allow all
cache deny all
access_log none
cache_log /dev/null
pid_filename none
coredump_dir /tmp
visible_hostname lab
shutdown_lifetime 0 seconds
`, l))
	cmd := exec.Command(program(t, "squid", "squid"), "-N", "-n", "e2e"+l, "-f", config) // the name is that of its shared memory
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Signal(syscall.SIGTERM); _ = cmd.Wait() })
	eventually(t, "squid listens", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+l)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	d := start(t, fmt.Sprintf("[[upstream]]\nname = \"exit\"\nvia = [\"http://127.0.0.1:%s\"]\n[[forward]]\nupstream = \"exit\"\n", l))
	eventually(t, "squid answers", func() bool {
		out, err := curl(t, "--proxy", "http://"+d.address, web.URL+"/")
		return err == nil && strings.Contains(out, "hello from")
	})
	if out := mustCurl(t, "--proxy", "http://"+d.address, "--write-out", "%{http_code}", "--output", "/dev/null", web.URL+"/sum"); out != "403" {
		t.Errorf("squid's own page: %s", out)
	}
	out, _ := curl(t, "--proxy", "http://"+d.address, "--proxytunnel", "--include", web.URL+"/")
	if !strings.Contains(out, `next-hop="exit"; received-status=403`) {
		t.Errorf("a tunnel that squid refuses: %q", out)
	}
	if r := d.record(web.Listener.Addr().String()); r.text("upstream") != "exit" || r.text("method") != "GET" {
		t.Errorf("recorded %v", r)
	}
}
