package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// tmux is a terminal that a test looks at.
type tmux struct {
	t      *testing.T
	socket string
}

func newTmux(t *testing.T, command string) *tmux {
	t.Helper()
	program(t, "tmux", "tmux")
	x := &tmux{t: t, socket: filepath.Join(t.TempDir(), "s")}
	x.run("-f", "/dev/null", "new-session", "-d", "-x", "130", "-y", "24", command+"; echo status $?; sleep 1000")
	t.Cleanup(func() { _ = exec.Command("tmux", "-S", x.socket, "kill-server").Run() })
	return x
}

func (x *tmux) run(args ...string) string {
	x.t.Helper()
	out, err := exec.Command("tmux", append([]string{"-S", x.socket}, args...)...).CombinedOutput()
	if err != nil {
		x.t.Fatalf("tmux %q: %v: %s", args, err, out)
	}
	return string(out)
}

// shows waits until the screen has a text, and returns the screen.
func (x *tmux) shows(pattern string) (screen string) {
	x.t.Helper()
	want := regexp.MustCompile(pattern)
	defer func() {
		if x.t.Failed() {
			x.t.Log(screen)
		}
	}()
	eventually(x.t, "the screen shows "+pattern, func() bool {
		screen = x.run("capture-pane", "-p")
		return want.MatchString(screen)
	})
	return screen
}

// A person watches a daemon in a terminal: sorts, filters, resizes, and closes a
// session, which is asked for first. A user's name cannot draw on the screen.
func TestTop(t *testing.T) {
	echo, other := echoServer(t, "127.0.0.1:0"), echoServer(t, "127.0.0.1:0")
	d := start(t, withAPI(t, ""))
	quiet, _ := connect(t, d.address, echo)
	busy, _ := connect(t, d.address, other)
	for range 50 {
		echoes(t, busy, strings.Repeat("x", 1000))
	}
	token := writeFile(t, "token", adminToken)
	x := newTmux(t, fmt.Sprintf("%s top --admin %s --token-file %s --every 500ms", binary, d.admin, token))
	x.shows(`2 connections of`)
	x.shows(`sorted by rate, 2 of 2`)
	x.run("send-keys", "b")
	screen := x.shows(`sorted by bytes`)
	if strings.Index(screen, other.String()) > strings.Index(screen, echo.String()) {
		t.Errorf("not sorted by bytes:\n%s", screen)
	}
	x.run("send-keys", "/")
	x.shows(`filter: words, user:NAME client:ADDR target:TEXT`)
	x.run("send-keys", "client:127.0.0.1 user:nobody", "Enter")
	x.shows(`0 of 0 with "client:127.0.0.1 user:nobody"`)
	x.run("send-keys", "/", "C-u")
	x.run("send-keys", "client:"+quiet.LocalAddr().String(), "Enter")
	x.shows(`1 of 1 with "client:`)
	x.run("send-keys", "/", "C-u")
	x.run("send-keys", "127.0.0 :"+port(echo.String()), "Enter")
	x.shows(`1 of 1 with "127.0.0 :` + port(echo.String()))
	x.run("send-keys", "Enter")
	x.shows(`connected to: ` + echo.String())
	x.run("send-keys", "Enter")
	x.run("resize-window", "-x", "40", "-y", "15")
	x.shows(`(?m)^USER +TARGET +OUT/S`)
	x.run("resize-window", "-x", "80", "-y", "12")
	x.shows(`(?m)^ID +USER +TARGET +AGE +IN/S +OUT/S`)
	x.run("send-keys", "k")
	x.shows(`Close the session`)
	x.run("send-keys", "Enter") // no is what is asked first
	x.shows(`1 of 1 with`)
	echoes(t, quiet, "still there")
	x.run("send-keys", "k")
	x.shows(`Close the session`)
	x.run("send-keys", "Tab", "Enter")
	d.find("the record", func(l line) bool { return l.text("cause") == "revoked" && l.text("target") == echo.String() })
	x.shows(`0 of 0 with`)
	x.run("send-keys", "q")
	x.shows(`status 0`)
	out, stderr, code := command(t, "", "top", "--admin", d.admin, "--token-file", token)
	if code != 2 || !strings.Contains(stderr, "top needs a terminal") {
		t.Errorf("without a terminal: %d, %q, %q", code, out, stderr)
	}
}
