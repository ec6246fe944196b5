package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Whoever may do nothing that is privileged can have all that needs no privilege, and
// is told at `check` already, as by the daemon, what the rest of it needs and where it
// is asked for. Ports of UDP and BIND were found out by clients, who were refused.
func TestWithoutCapabilities(t *testing.T) {
	setpriv := program(t, "setpriv", "util-linux")
	const admin = "[admin]\naddress = \"\"\n"
	for settings, want := range map[string]string{
		"[[listener]]\naddress = \"127.0.0.1:80\"\n":                          "listener[0].address: 127.0.0.1:80: permission denied: ports below 1024 need CAP_NET_BIND_SERVICE",
		"[[listener]]\naddress = \"127.0.0.1:0\"\ntransparent = \"tproxy\"\n": "needs CAP_NET_ADMIN",
		"[egress]\nmark = 5\n":                                         "egress.mark: SO_MARK needs CAP_NET_ADMIN",
		"[udp]\nports = \"80-90\"\n":                                   "udp.ports: port 80: permission denied: ports below 1024 need CAP_NET_BIND_SERVICE",
		"[bind]\nports = \"1000-2000\"\n":                              "bind.ports: port 1000: permission denied: ports below 1024 need CAP_NET_BIND_SERVICE",
		"[udp]\nenabled = false\nports = \"80\"\n":                     "",
		"[udp]\nports = \"1024-2000\"\n[egress]\ninterface = \"lo\"\n": "",
	} {
		path := filepath.Join(t.TempDir(), "c.toml")
		if err := os.WriteFile(path, []byte(settings+admin), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"check", "--config", path}, {"--config", path, "-t", "1"}} {
			if want == "" && args[0] != "check" {
				continue
			}
			// Root whose capabilities are gone may read what is root's and do no more.
			cmd := exec.CommandContext(t.Context(), setpriv, append([]string{"--bounding-set=-all", "--inh-caps=-all", binary}, args...)...)
			cmd.WaitDelay = 10 * time.Second
			out, err := cmd.CombinedOutput()
			if refused := cmd.ProcessState.ExitCode() == 2; refused != (want != "") || !strings.Contains(string(out), want) {
				t.Errorf("%q, %s: %v, %s; want %q", settings, args[0], err, out, want)
			}
		}
	}
}
