package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// cli runs a command against a daemon and returns what it printed and its exit
// status.
func (d *daemon) cli(token string, args ...string) (out string, status int) {
	d.t.Helper()
	args = append(args, "--admin", d.admin)
	if token != "" {
		args = append(args, "--token-file", writeFile(d.t, "token", token))
	}
	cmd := exec.Command(binary, args...)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	_ = cmd.Run()
	return b.String(), cmd.ProcessState.ExitCode()
}

// Each command to a running daemon does what it says, and its exit status is
// one that scripts can use.
func TestCommandsToADaemon(t *testing.T) {
	d := start(t, withAPI(t, apiSettings))
	c, target := connect2(t, d)
	for _, tt := range []struct {
		command string
		status  int
		want    string
	}{
		{"status", 0, "ready"},
		{"sessions --user alice", 0, target},
		{"sessions --user nobody", 0, "TARGET"},
		{"sessions --json", 0, `"user":"alice"`},
		{"sessions --sort nonsense", 1, "400 Bad Request: sort: age, bytes or rate"},
		{"users", 0, "alice"},
		{"users --json", 0, `"remaining"`},
		{"bans add 192.0.2.9 --for 10m", 0, "192.0.2.9/32"},
		{"bans", 0, "192.0.2.9/32"},
		{"bans lift 192.0.2.9", 0, ""},
		{"bans lift 192.0.2.9", 1, "no such entry"},
		{"bans add", 2, "one address"},
		{"whitelist add 192.0.2.7 --as alice", 0, "as alice"},
		{"whitelist", 0, "192.0.2.7"},
		{"whitelist remove 192.0.2.7", 0, ""},
		{"upstreams drain exit socks5://127.0.0.1:1", 0, ""},
		{"upstreams", 0, "drained"},
		{"upstreams undrain exit socks5://127.0.0.1:1", 0, ""},
		{"dns", 0, "NAME"},
		{"dns flush", 0, "dropped"},
		{"denials", 0, ""},
		{"log debug", 0, ""},
		{"log", 0, "debug"},
		{"log loud", 1, "level:"},
		{"reload", 0, ""},
		{"kill", 2, "which ones?"},
		{"kill nonsense", 1, "no such session"},
		{"kill --user alice", 0, "1  closed"},
	} {
		if out, status := d.cli(adminToken, strings.Fields(tt.command)...); status != tt.status || !strings.Contains(out, tt.want) {
			t.Errorf("%s: status %d, want %d and %q:\n%s", tt.command, status, tt.status, tt.want, out)
		}
	}
	_ = c.Close()
	var page struct{ Total int }
	out, _ := d.cli(adminToken, "sessions", "--json")
	if err := json.Unmarshal([]byte(out), &page); err != nil {
		t.Errorf("%v in %s", err, out)
	}
	if out, status := d.cli("a wrong token of any length", "sessions"); status != 1 || !strings.Contains(out, "token") {
		t.Errorf("with a wrong token: %d %s", status, out)
	}
	if out, status := d.cli("", "sessions"); status != 2 || !strings.Contains(out, "--token-file") {
		t.Errorf("without a token: %d %s", status, out)
	}
	if out, status := d.cli(adminToken, "drain"); status != 0 {
		t.Errorf("drain: %d %s", status, out)
	}
	if code := d.exitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

// On its unix socket the daemon's owner needs no token, others do; a socket that
// a daemon which was killed left behind is no obstacle, and a live one is.
func TestAdminOnAUnixSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "admin-") //nolint:usetesting // t.TempDir is closed to others
	if err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "admin.sock")
	config := writeFile(t, "c.toml", "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"unix:"+socket+"\"\n")
	for range 2 {
		d := startProgram(t, "--config", config, "--log-format", "json")
		if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		d.admin = "unix:" + socket
		for _, command := range []string{"sessions", "healthcheck", "explain --to 192.0.2.1:80"} {
			if out, status := d.cli("", strings.Fields(command)...); status != 0 {
				t.Errorf("%s: status %d: %s", command, status, out)
			}
		}
		if err := os.Chmod(socket, 0o666); err != nil { // whoever may connect is still not the owner
			t.Fatal(err)
		}
		nobody := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
			program(t, "curl", "curl"), "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", socket, "http://localhost/api/v1/status")
		if out, err := nobody.Output(); string(out) != "404" {
			t.Errorf("another user, without a token: %s, %v", out, err)
		}
		second := exec.Command(binary, "--config", config)
		if out, err := second.CombinedOutput(); err == nil || !strings.Contains(string(out), "another daemon answers there") {
			t.Errorf("a second daemon: %v, %s", err, out)
		}
		if err := d.Cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		<-d.Exited
	}
}

// A configuration from standard input lives through a reload and an upgrade, and
// who asks for the reload hears that it could not be read again.
func TestConfigurationFromStandardInput(t *testing.T) {
	cmd := exec.Command(binary, "--config", "-", "--log-format", "json")
	cmd.Stdin = strings.NewReader("[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"" + writeFile(t, "token", adminToken) + "\"\n")
	d := startCommand(t, cmd)
	for _, command := range []string{"reload", "upgrade", "reload"} {
		out, status := d.cli(adminToken, command)
		if status != 0 || strings.Contains(out, "standard input, which cannot be read again") != (command == "reload") {
			t.Errorf("%s: status %d: %s", command, status, out)
		}
	}
	// The successor holds the log that the test waits for the end of.
	if out, status := d.cli(adminToken, "drain"); status != 0 {
		t.Errorf("drain: status %d: %s", status, out)
	}
}

// `cleversocks sessions | head` ended with a word about a broken pipe, where
// whoever started it ignores SIGPIPE, as some do. A full disk is an error.
func TestOutputThatNobodyReads(t *testing.T) {
	for _, tt := range []struct{ script, stderr string }{
		{"trap '' PIPE; (" + binary + " completion bash; echo status $? >&2) | true", ""},
		{binary + " --help > /dev/full; echo status $? >&2", "no space left on device"},
		{binary + " check > /dev/full; echo status $? >&2", "no space left on device"},
	} {
		cmd := exec.Command("sh", "-c", tt.script)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		_ = cmd.Run()
		said, _, ended := strings.Cut(stderr.String(), "status ")
		if !ended || (tt.stderr == "") != (said == "") || !strings.Contains(said, tt.stderr) {
			t.Errorf("%s: %q", tt.script, stderr.String())
		}
	}
}
