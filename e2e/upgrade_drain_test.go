package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The associations of UDP clients live on in the predecessor, and so does what
// a second upgrade finds there: it does not wait for the first one's tunnels.
// (tableflip#52: a further upgrade was blocked.) SIGUSR2 to a process that
// drains does nothing but tell (nghttp2#807: each started one of its own).
func TestUpgradeWhileDraining(t *testing.T) {
	echo, udp := echoServer(t, "127.0.0.1:0"), udpEcho(t, "127.0.0.1:0")
	d := lineageOf(start(t, withAPI(t, "[[listener]]\naddress = \"127.0.0.1:0\"\n")))
	first := d.pid
	a := mustAssociate(t, d.address)
	a.echoes("127.0.0.1", udp, "before")
	d.upgrade()
	second := d.pid
	c, _ := connect(t, d.address, echo)
	d.upgrade()
	if err := syscall.Kill(first, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	d.waitMessage("no upgrade: this process drains, and has a successor")
	a.echoes("127.0.0.1", udp, "after")
	echoes(t, c, "after")
	var status object
	eventually(t, "both predecessors are known", func() bool {
		d.call("GET", "/api/v1/status", nil, &status)
		list, _ := status["predecessors"].([]any)
		return len(list) == 2 && list[0].(object)["connections"] == 1.0 && list[1].(object)["connections"] == 1.0
	})
	if got := fmt.Sprint(status["pid"]); got != strconv.Itoa(d.pid) {
		t.Errorf("pid %s", got)
	}
	c.Close()
	eventually(t, "the second ends with its tunnel", func() bool { return !runs(second) })
	a.control.Close()
	eventually(t, "the first ends with its association", func() bool { return !runs(first) })
	d.await("the predecessor has ended", 2)
}

// drain.upgrade_timeout ends what is left in the predecessor, and a stop signal
// does after drain.timeout.
func TestUpgradeTimeout(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	for _, way := range []struct {
		drain string
		stop  bool
	}{{"upgrade_timeout = \"500ms\"", false}, {"timeout = \"500ms\"", true}} {
		d := lineageOf(start(t, "[drain]\n"+way.drain+"\n[[listener]]\naddress = \"127.0.0.1:0\"\n"))
		first := d.pid
		c, _ := connect(t, d.address, echo)
		d.upgrade()
		if way.stop {
			if err := syscall.Kill(first, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the tunnel is open", way.drain)
		}
		eventually(t, "the predecessor ends", func() bool { return !runs(first) })
	}
}

// Who finds too many old processes bounds them by a reload, which means those that are
// there. (bunkerweb#3153: old workers with no bound took all memory.)
func TestUpgradeTimeoutByReload(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	listener := "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n"
	config := writeFile(t, "c.toml", listener)
	d := lineageOf(startProgram(t, "--config", config, "--log-format", "json"))
	first := d.pid
	c, _ := connect(t, d.address, echo)
	d.upgrade()
	rewrite(t, config, listener+"[drain]\nupgrade_timeout = \"100ms\"\n")
	d.tell(syscall.SIGHUP)
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the tunnel is open")
	}
	eventually(t, "the predecessor ends", func() bool { return !runs(first) })
}

// A stop of the daemon is one of its old processes, which nobody could reach any more
// behind it: a user who is disabled then would go on there. Until they have ended it
// counts what they use.
func TestStopMeansPredecessors(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	state := t.TempDir()
	d := lineageOf(start(t, withAPI(t, "[state]\ndirectory = '"+state+`'
[auth]
allow_plain_passwords = true
[acl]
block_private = false
[[listener]]
address = "127.0.0.1:0"
[[user]]
name = "alice"
password = "right"
quota = { bytes = "100KiB", period = "720h" }
`)))
	first := d.pid
	c, _ := tunnelAs(t, d.address, "127.0.0.1", "alice", echo)
	d.upgrade()
	if status := d.call("POST", "/api/v1/drain", nil, nil); status >= 300 {
		t.Fatalf("status %d", status)
	}
	d.await("stopping: the daemon stops", 1)
	echoes(t, c, strings.Repeat("x", 5000)) // it has drain.timeout
	c.Close()
	eventually(t, "both end", func() bool { return !runs(first) && !runs(d.pid) })
	if text := readText(t, filepath.Join(state, "quotas.state")); !strings.Contains(text, `"used":10000`) {
		t.Errorf("%s", text)
	}
}

// A client's kept connection, on which a plain request may be on its way, is not
// closed by an upgrade: the next request is served, and the answer says that it is
// the last. A stop of the predecessor closes those that are silent. (nginx#437:
// reloads reset requests on kept connections, and no client sends a POST again.)
func TestUpgradeKeepsHTTPConnections(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	d := lineageOf(start(t, "[acl]\nblock_private = false\n[[listener]]\naddress = \"127.0.0.1:0\"\n"))
	first := d.pid
	ask := func(c net.Conn) *http.Response {
		t.Helper()
		fmt.Fprintf(c, "GET %s/ HTTP/1.1\r\nHost: x\r\n\r\n", web.URL)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp
	}
	busy, silent := dialProxyFrom(t, d.address, "127.0.0.1"), dialProxyFrom(t, d.address, "127.0.0.1")
	if ask(busy).Close || ask(silent).Close {
		t.Error("the connections are not kept")
	}
	d.upgrade()
	// The predecessor drains some moments after its successor serves.
	eventually(t, "an answer is the last", func() bool { return ask(busy).Close })
	if _, err := busy.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last answer: %v", err)
	}
	busy.Close()
	if err := syscall.Kill(first, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := silent.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a silent one, in a stop: %v", err)
	}
	silent.Close()
	eventually(t, "the predecessor ends", func() bool { return !runs(first) })
}
