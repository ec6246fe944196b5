package e2e

import (
	"bufio"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
)

// A load balancer that can only connect sees a port while the daemon is ready,
// and none while it drains and still serves.
func TestHealthPort(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, "[drain]\ndelay = \"3s\"\n[admin]\naddress = \"127.0.0.1:0\"\nhealth_tcp = \"127.0.0.1:0\"\n")
	at := d.seen("health port listens").text("address")
	accepts := func() bool {
		c, err := net.Dial("tcp", at)
		if err == nil {
			_, _ = c.Read(make([]byte, 1)) // it says nothing and closes
			c.Close()
		}
		return err == nil
	}
	for range 3 {
		if !accepts() {
			t.Fatal("closed while ready")
		}
	}
	d.signal(syscall.SIGHUP)
	d.waitMessage("reloaded")
	if !accepts() {
		t.Error("closed by a reload")
	}
	c, code := connect(t, d.address, echo)
	if code != succeeded {
		t.Fatal(code)
	}
	d.signal(syscall.SIGTERM)
	d.waitMessage("not ready any more, and still accepting")
	eventually(t, "closed while it drains", func() bool { return !accepts() })
	echoes(t, c, "still served")
	c.Close()
}

// Bans that failed log-ins bring are events, as an operator's are.
func TestBansAreEvents(t *testing.T) {
	d := start(t, withAPI(t, apiSettings+"\n[limits]\nauth_failures = { max = 2, window = \"1m\", ban = \"1m\", ban_max = \"1h\" }\n"))
	req, _ := http.NewRequest("GET", "http://"+d.admin+"/api/v1/events?type=banned", nil)
	req.Header.Set("Authorization", "Bearer "+adminToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	for _, password := range []string{"wrong", "worse"} {
		_, _ = curl(t, "--interface", "127.0.0.77", "--proxy", d.via("alice", password), "http://127.0.0.1:1/")
	}
	d.waitMessage("source banned")
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "127.0.0.77/32") {
			return
		}
	}
	t.Error("no event: ", lines.Err())
}
