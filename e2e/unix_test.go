package e2e

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A client on a unix socket is known by its user id; another user of this
// machine has to log in, and none of them is kept out by limits of sources. The
// file survives a reload that changes the listener, and goes with the daemon.
func TestUnixSocketListener(t *testing.T) {
	dir, err := os.MkdirTemp("", "unix-") //nolint:usetesting // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("here")) }))
	defer site.Close()
	socket := filepath.Join(dir, "x.sock")
	settings := func(mode, name string) string {
		return "[limits]\nmax_connections_per_ip = 1\n[[listener]]\nname = \"" + name + "\"\naddress = \"unix:" + socket + "\"\nmode = \"" + mode + "\"\nusers_by_uid = { 0 = \"root\" }\n" +
			"[acl]\nblock_private = false\n[[acl.rule]]\naction = \"allow\"\nusers = [\"root\"]\n[[acl.rule]]\naction = \"deny\"\n"
	}
	config := writeFile(t, "c.toml", settings("0666", "one"))
	d := startProgram(t, "--config", config, "--log-format", "json")
	curl := program(t, "curl", "curl")
	fetch := func(before ...string) string {
		args := append(before, curl, "-s", "-m", "20", "--proxy", "socks5h://localhost"+socket, site.URL)
		out, _ := exec.Command(args[0], args[1:]...).Output()
		return string(out)
	}
	if got := fetch(); got != "here" {
		t.Errorf("root: %q", got)
	}
	r := d.record(strings.TrimPrefix(site.URL, "http://"))
	if r.text("client") != "unix:uid=0" || r.text("user") != "root" || r.text("auth") != "unix" {
		t.Errorf("record %v", r)
	}
	if got := fetch("setpriv", "--reuid=65533", "--regid=65533", "--clear-groups"); got != "" {
		t.Errorf("somebody else: %q", got)
	}
	rewrite(t, config, settings("0600", "two"))
	d.signal(syscall.SIGHUP)
	d.waitMessage("listener closed")
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("after a reload: %v, %v", info, err)
	}
	if got := fetch(); got != "here" {
		t.Errorf("after a reload: %q", got)
	}
	d.signal(syscall.SIGTERM)
	if code := d.exitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("the file is still there: %v", err)
	}
}
