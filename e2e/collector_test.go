package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cleversocks/e2e/need"
)

// serves starts a program that runs until the test's end.
func serves(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", cmd.Path, out.String())
		}
	})
}

// rsyslog listens by every way that we know, and writes what it understood of
// each message as a line "way|pri|host|app|procid|msgid|msg".
func rsyslog(t *testing.T, dir string) (udp, tcp string) {
	t.Helper()
	program := program(t, "rsyslogd", "rsyslog")
	udp, tcp = freePort(t), freePort(t)
	conf := writeFile(t, "rsyslog.conf", strings.NewReplacer("DIR", dir, "UDP", udp, "TCP", tcp).Replace(`
module(load="imuxsock" SysSock.Use="off")
module(load="imudp")
module(load="imptcp")
template(name="line" type="string" string="%inputname%|%pri%|%app-name%|%msgid%|%msg%\n")
ruleset(name="all") { action(type="omfile" file="DIR/out" template="line") }
input(type="imuxsock" Socket="DIR/new" UseSpecialParser="off" ruleset="all")
input(type="imuxsock" Socket="DIR/old" ruleset="all")
input(type="imudp" address="127.0.0.1" port="UDP" ruleset="all")
input(type="imptcp" address="127.0.0.1" port="TCP" ruleset="all")
`))
	serves(t, exec.Command(program, "-n", "-f", conf, "-i", filepath.Join(dir, "pid")))
	eventually(t, "rsyslog listens", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+tcp)
		if err == nil {
			c.Close()
		}
		_, err2 := os.Stat(filepath.Join(dir, "old"))
		return err == nil && err2 == nil
	})
	return udp, tcp
}

// A real syslog server understands what we send, by each way, in both formats.
// The user name is a stranger's: it must not become a message of its own.
func TestRecordsToSyslog(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	dir := t.TempDir()
	udp, tcp := rsyslog(t, dir)
	for way, output := range map[string]string{
		"imudp":        "syslog:udp://127.0.0.1:" + udp,
		"imptcp":       "syslog:tcp://127.0.0.1:" + tcp + "?facility=local3",
		"imuxsock new": "syslog:" + dir + "/new",
		"imuxsock old": "syslog:" + dir + "/old?format=rfc3164",
	} {
		for _, format := range []string{"text", "json"} {
			t.Run(way+" "+format, func(t *testing.T) {
				_ = os.Truncate(filepath.Join(dir, "out"), 0) // rsyslog appends to it
				args := []string{"--config", writeFile(t, "c.toml", fmt.Sprintf("[log]\naccess_output = %q\n[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"\"\n", output)), "--log-format", format}
				cmd := exec.Command(binary, args...)
				stderr, err := cmd.StderrPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
				proxy := listensAt(t, stderr)
				mustCurl(t, "--proxy", "socks5h://"+proxy, web.URL)
				eve := dialProxy(t, proxy)
				at := netip.MustParseAddrPort(strings.TrimPrefix(web.URL, "http://"))
				send(t, eve, append(append([]byte{4, 1, byte(at.Port() >> 8), byte(at.Port()), 127, 0, 0, 1}, "eve\n<0>root: x"...), 0)...)
				receive(t, eve, 8)
				eve.Close()
				_ = cmd.Process.Signal(syscall.SIGTERM)
				var lines []string
				eventually(t, "two records", func() bool {
					out, _ := os.ReadFile(filepath.Join(dir, "out"))
					lines = strings.Split(strings.TrimSpace(string(out)), "\n")
					return len(lines) >= 2
				})
				for _, l := range lines {
					f := strings.SplitN(l, "|", 5)
					pri := "30"
					if way == "imptcp" {
						pri = "158"
					}
					if len(f) != 5 || f[0] != strings.Fields(way)[0] || f[1] != pri || f[2] != "cleversocks" {
						t.Errorf("understood as %q", l)
						continue
					}
					text := strings.TrimSpace(f[4])
					if format == "json" && json.Unmarshal([]byte(text), &line{}) != nil || !strings.Contains(text, "connection") {
						t.Errorf("message %q", text)
					}
				}
				if len(lines) != 2 {
					t.Errorf("lines: %q", lines)
				}
			})
		}
	}
}

// listensAt reads a daemon's log, text or JSON, until it says where it listens,
// and goes on reading.
func listensAt(t *testing.T, log interface{ Read([]byte) (int, error) }) string {
	t.Helper()
	found := make(chan string, 1)
	go func() {
		var all strings.Builder
		buf := make([]byte, 4096)
		for {
			n, err := log.Read(buf)
			if err != nil {
				return
			}
			all.Write(buf[:n])
			for l := range strings.Lines(all.String()) {
				if _, at, ok := strings.Cut(l, "127.0.0.1:"); ok && strings.Contains(l, "proxy listens") && strings.HasSuffix(l, "\n") {
					digits := at[:strings.IndexFunc(at+" ", func(r rune) bool { return r < '0' || r > '9' })]
					select {
					case found <- "127.0.0.1:" + digits:
					default:
					}
				}
			}
		}
	}()
	select {
	case at := <-found:
		return at
	case <-time.After(patience):
		t.Fatal("it listens nowhere")
		return ""
	}
}

// A real journald takes records as fields, one of them chosen by a stranger.
func TestRecordsToJournald(t *testing.T) {
	const journald = "/lib/systemd/systemd-journald"
	if _, err := os.Stat(journald); err != nil {
		need.Program(t, "systemd-journald", "systemd")
	}
	journalctl := program(t, "journalctl", "systemd")
	web := origin(t, "127.0.0.1:0")
	dir := t.TempDir()
	for _, sub := range []string{"run/journal", "log"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// It has fixed places: a mount namespace puts them into the test's folder.
	cmd := exec.Command("sh", "-ec", `mkdir -p /run/systemd /run/log
mount --bind "$D/run" /run/systemd; mount --bind "$D/log" /run/log; mount -t tmpfs none /var/log
exec `+journald)
	cmd.Env = append(os.Environ(), "D="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	serves(t, cmd)
	socket := filepath.Join(dir, "run/journal/socket")
	// It comes later than the daemon, which starts without it.
	d := start(t, fmt.Sprintf("[log]\naccess_output = \"journald:%s\"\n", socket))
	mustCurl(t, "--proxy", "socks5h://"+d.address, web.URL)
	var record line
	eventually(t, "a record in the journal", func() bool {
		out, _ := exec.Command(journalctl, "--directory="+filepath.Join(dir, "log/journal"), "-o", "json", "SYSLOG_IDENTIFIER=cleversocks").Output()
		first, _, _ := strings.Cut(string(out), "\n")
		return json.Unmarshal([]byte(first), &record) == nil
	})
	target := strings.TrimPrefix(web.URL, "http://")
	if record.text("CLEVERSOCKS_TARGET") != target || record.text("PRIORITY") != "6" || record.text("CLEVERSOCKS_CAUSE") == "" {
		t.Errorf("%v", record)
	}
}

// A syslog server that is dead, or takes a connection and never reads, costs
// records and no time: connections, reloads and the end are as ever, what is
// lost is counted, and one that comes back gets what comes then.
func TestSyslogServerIsAway(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	away := "127.0.0.1:" + freePort(t)
	for name, address := range map[string]string{"dead": away, "deaf": deaf.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			d := start(t, fmt.Sprintf("[log]\naccess_output = \"syslog:tcp://%s\"\n", address))
			for range 5 {
				mustCurl(t, "--proxy", "socks5h://"+d.address, web.URL)
			}
			d.signal(syscall.SIGHUP)
			d.waitMessage("reloaded")
			mustCurl(t, "--proxy", "socks5h://"+d.address, web.URL)
			if name != "dead" {
				return
			}
			d.waitMessage("access records wait: their collector does not answer")
			back, err := net.Listen("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer back.Close()
			d.signal(syscall.SIGHUP) // it does not wait for the pause's end
			c, err := back.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			var got strings.Builder
			buf := make([]byte, 4096)
			_ = c.SetReadDeadline(time.Now().Add(patience))
			for strings.Count(got.String(), `"msg":"connection"`) < 6 {
				n, err := c.Read(buf)
				if err != nil {
					t.Fatalf("%v; so far: %s", err, got.String())
				}
				got.Write(buf[:n])
			}
		})
	}
}
