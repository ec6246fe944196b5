package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// startOpenVPN runs one end of a VPN without an interface and returns its log.
func startOpenVPN(t *testing.T, name string, args ...string) (log func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".log")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.CommandContext(t.Context(), program(t, "openvpn", "openvpn"), append([]string{
		"--dev", "null", "--verb", "3", "--cipher", "AES-256-CBC",
	}, args...)...)
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return func() string {
		text, _ := os.ReadFile(path)
		return string(text)
	}
}

// An OpenVPN client sends a ping now and then, and nothing else. Its
// association was ended for that, with a control connection that it never
// looks at again, and the VPN was dead until somebody noticed. Here each ping
// comes after a rest, and the server, which takes no other peer's address than
// the first (no --float), goes on to hear of the client.
func TestOpenVPN(t *testing.T) {
	key := filepath.Join(t.TempDir(), "static.key")
	if out, err := run(t, nil, program(t, "openvpn", "openvpn"), "--genkey", "secret", key); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d := start(t, "[udp]\nidle_timeout = \"1s\"\n")
	before := d.baseline().descriptors // with the connection of these questions, which stays open
	proxy := strings.Split(d.address, ":")
	p := freePort(t)
	server := startOpenVPN(t, "server", "--secret", key, "--proto", "udp", "--local", "198.51.100.1", "--port", p,
		"--ping", "60")
	client := startOpenVPN(t, "client", "--secret", key, "--proto", "udp", "--nobind", "--remote", "198.51.100.1", p,
		"--socks-proxy", proxy[0], proxy[1], "--ping", "3")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the server:\n%s\nthe client:\n%s", server(), client())
		}
	})
	eventually(t, "the server hears of the client", func() bool { return strings.Contains(server(), "Peer Connection Initiated") })
	rests := 0
	for range 3 {
		sent := d.metric(`cleversocks_udp_datagrams_total{direction="in",outcome="relayed"}`)
		// The control connection and the relay's socket stay.
		eventually(t, "the association rests", func() bool { return d.descriptors() <= before+2 })
		rests++
		eventually(t, "the next ping comes through", func() bool {
			return d.metric(`cleversocks_udp_datagrams_total{direction="in",outcome="relayed"}`) != sent
		})
	}
	for line := range strings.SplitSeq(server(), "\n") {
		if strings.Contains(line, "unexpected source") || strings.Contains(line, "Inactivity timeout") {
			t.Errorf("the server: %s", line)
		}
	}
	if text := client(); strings.Contains(text, "Restart") || strings.Contains(text, "error") {
		t.Errorf("the client:\n%s", text)
	}
	if got := d.metric("cleversocks_udp_associations_active"); got != "1" || rests != 3 {
		t.Errorf("%s associations after %d rests", got, rests)
	}
}
