package e2e

import (
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Tunnels, associations and what a BIND was for end at limits.max_session_age,
// busy or not; a reload makes it hold for those that are open. The cause is that
// of a drain, and the record's err says which setting it was.
func TestSessionAge(t *testing.T) {
	echo, datagrams := echoServer(t, "127.0.0.1:0"), udpEcho(t, "127.0.0.1:0")
	const settings = "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n"
	file := writeFile(t, "c.toml", settings)
	d := startProgram(t, "--config", file, "--log-format", "json")
	tunnel, code := connect(t, d.address, echo)
	if code != succeeded {
		t.Fatalf("reply %d", code)
	}
	a := mustAssociate(t, d.address)
	bound, _, at := askBind(t, d.address, anyone)
	peer, err := connectFrom(t, "127.0.0.1", at)
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	if code, _ := bindReply(t, bound); code != succeeded {
		t.Fatalf("second reply %d", code)
	}
	echoes(t, tunnel, "hello")
	a.echoes("127.0.0.1", datagrams, "hello")

	rewrite(t, file, settings+"[limits]\nmax_session_age = \"1s\"\n")
	d.signal(syscall.SIGHUP)
	a.ended()
	for name, c := range map[string]interface{ Read([]byte) (int, error) }{"tunnel": tunnel, "bind": bound, "peer": peer} {
		if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s ends with %v, want a reset: a stream cut short must not look complete", name, err)
		}
	}
	for _, command := range []string{"connect", "bind", "udp"} {
		r := d.find("of "+command, func(l line) bool { return l["msg"] == "connection" && l["command"] == command })
		if r.text("cause") != "drained" || !strings.Contains(r.text("err"), "max_session_age") {
			t.Errorf("%v", r)
		}
	}
	began := time.Now()
	young, code := connect(t, d.address, echo)
	if code != succeeded {
		t.Fatalf("reply %d", code)
	}
	for err == nil { // busy to the end
		if _, err = young.Write([]byte("x")); err == nil {
			_, err = young.Read(make([]byte, 1))
		}
	}
	if lived := time.Since(began); lived < 800*time.Millisecond {
		t.Errorf("a new tunnel ends after %s", lived)
	}
	if status, _ := d.get("/healthz"); status != http.StatusOK {
		t.Errorf("healthz %d", status)
	}
}
