package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestReloadKeepsConnectionsAndListeners(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	first, second := freePort(t), freePort(t)
	listener := func(p string) string { return "[[listener]]\naddress = \"127.0.0.1:" + p + "\"\n" }
	const admin = "[admin]\naddress = \"127.0.0.1:0\"\n"
	config := writeFile(t, "c.toml", listener(first)+admin)
	d := startProgram(t, "--config", config, "--log-format", "json")
	c, reply := connect(t, d.address, echo)
	if reply != succeeded {
		t.Fatalf("reply %d", reply)
	}

	rewrite(t, config, listener(first)+listener(second)+admin)
	d.signal(syscall.SIGHUP)
	d.waitLine("generation", "2")
	if _, reply := connect(t, "127.0.0.1:"+second, echo); reply != succeeded {
		t.Errorf("the new listener: reply %d", reply)
	}
	echoes(t, c, "after the first reload")

	rewrite(t, config, "[limits]\nidle_timeout = \"forever\"\nnonsense = 1\n"+admin)
	d.signal(syscall.SIGHUP)
	failed := d.waitMessage("reload failed: the old configuration stays")
	for _, part := range []string{"idle_timeout", "nonsense", "c.toml"} {
		if !strings.Contains(failed.text("err"), part) {
			t.Errorf("the error does not name %s: %s", part, failed.text("err"))
		}
	}
	if _, reply := connect(t, d.address, echo); reply != succeeded {
		t.Errorf("after a bad reload: reply %d", reply)
	}

	rewrite(t, config, listener(second)+"[limits]\nmax_connections = 77\n"+strings.Replace(admin, ":0", ":"+freePort(t), 1))
	d.signal(syscall.SIGHUP)
	d.waitLine("generation", "3")
	d.waitLine("key", "admin.address")
	if extra, err := net.Dial("tcp", "127.0.0.1:"+first); err == nil {
		extra.Close()
		t.Error("a removed listener still accepts")
	}
	echoes(t, c, "after its listener is gone")
	if got := d.settles(`cleversocks_reloads_total{outcome="failed"}`, "1"); got != "1" {
		t.Errorf("failed reloads: %s", got)
	}
}

// A listener that moves to another address of the same port has to close the
// old socket first; when the new one cannot be had, the old comes back.
func TestReloadMovesAListener(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	p := freePort(t)
	const admin = "[admin]\naddress = \"\"\n"
	config := writeFile(t, "c.toml", "[[listener]]\naddress = \"127.0.0.1:"+p+"\"\n"+admin)
	d := startCommand(t, exec.Command(binary, "--config", config, "--log-format", "json"))
	rewrite(t, config, "[[listener]]\naddress = \"0.0.0.0:"+p+"\"\n[[listener]]\naddress = \"203.0.113.77:1\"\n"+admin)
	d.signal(syscall.SIGHUP)
	d.waitMessage("reload failed")
	if _, reply := connect(t, "127.0.0.1:"+p, echo); reply != succeeded {
		t.Errorf("the old listener: reply %d", reply)
	}
	rewrite(t, config, "[[listener]]\naddress = \"0.0.0.0:"+p+"\"\n"+admin)
	d.signal(syscall.SIGHUP)
	d.waitMessage("reloaded")
	if _, reply := connect(t, "192.0.2.1:"+p, echo); reply != succeeded {
		t.Errorf("the new listener: reply %d", reply)
	}
	d.find("that warns of the open door", func(l line) bool { return strings.Contains(l.text("warning"), "no authentication on 0.0.0.0") })
}

// freePort is free on all addresses, and stays so while nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	return port(freeAddress(t))
}

func TestDrain(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, "")
	c, _ := connect(t, d.address, echo)
	if status, _ := d.get("/readyz"); status != 200 {
		t.Errorf("ready: %d", status)
	}
	d.signal(syscall.SIGTERM)
	d.waitMessage("draining")
	if status, body := d.get("/readyz"); status != 503 || !strings.Contains(body, "draining") {
		t.Errorf("while draining: %d %q", status, body)
	}
	if status, _ := d.get("/healthz"); status != 200 {
		t.Errorf("healthy while draining: %d", status)
	}
	if extra, err := net.Dial("tcp", d.address); err == nil {
		extra.Close()
		t.Error("it still accepts")
	}
	echoes(t, c, "the tunnel lives on")
	c.Close()
	if code := d.exitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	d.record(echo.String())
}

func TestDrainDeadline(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, "[drain]\ntimeout = \"1s\"\n")
	c, _ := connect(t, d.address, echo)
	d.signal(syscall.SIGTERM)
	if code := d.exitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if got := d.record(echo.String()); got.text("cause") != "drained" {
		t.Errorf("cause %s", got.text("cause"))
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the tunnel is still open")
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, "[drain]\ntimeout = \"1h\"\n")
	connect(t, d.address, echo)
	d.signal(syscall.SIGTERM)
	d.waitMessage("draining")
	// What comes within half a second is the same signal.
	eventually(t, "it ends", func() bool {
		_ = d.Cmd.Process.Signal(syscall.SIGINT)
		select {
		case <-d.Exited:
			return true
		default:
			return false
		}
	})
	if code := d.exitCode(); code != 1 {
		t.Errorf("exit status %d, want 1", code)
	}
}

// An orchestrator that has asked for a drain still sends its signal: it must not
// cut what drains. Only a second one does. Whoever asks a daemon that drains for a
// reload or an upgrade is told so, and waited for the end of the drain.
func TestSignalAfterAskedDrain(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, withAPI(t, "[drain]\ntimeout = \"1h\"\n"))
	c, _ := connect(t, d.address, echo)
	if got := d.call("POST", "/api/v1/drain", nil, nil); got != 204 {
		t.Fatalf("drain: %d", got)
	}
	d.waitMessage("draining")
	for _, ask := range []string{"reload", "upgrade"} {
		var answer object
		if d.call("POST", "/api/v1/"+ask, nil, &answer); answer["ok"] != false || !strings.Contains(fmt.Sprint(answer["error"]), "the daemon stops") {
			t.Errorf("%s: %v", ask, answer)
		}
	}
	d.signal(syscall.SIGTERM)
	d.waitMessage("stopping already; another signal ends it at once")
	echoes(t, c, "the tunnel lives on")
	c.Close()
	if code := d.exitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
}

func TestExitWhenIdle(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, "", "-t", "3")
	c, _ := connect(t, d.address, echo)
	echoes(t, c, "busy")
	c.Close()
	if code := d.exitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	d.waitMessage("stopping: idle")
}

// The access record says everything about a connection.
func TestAccessRecord(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	target := "localhost:" + port(web.URL[len("http://"):])
	d := start(t, "", "-u", "alice", "-P", "s3cret")
	mustCurl(t, "--proxy", "socks5h://alice:s3cret@"+d.address, "http://"+target+"/")
	got := d.record(target)
	for key, want := range map[string]string{
		"level": "INFO", "listener": d.address, "user": "alice", "auth": "password", "protocol": "socks5",
		"command": "connect", "host_ip": web.Listener.Addr().String(), "rule": "default", "cause": "client_closed", "reply": "succeeded",
	} {
		if got.text(key) != want {
			t.Errorf("%s is %s, want %s", key, got.text(key), want)
		}
	}
	for _, key := range []string{"id", "client", "local", "bytes_in", "bytes_out", "duration_ms", "time"} {
		if got[key] == nil {
			t.Errorf("no %s", key)
		}
	}
	if strings.Contains(d.log(), "s3cret") {
		t.Error("the password is in the log")
	}
}

// log.access = "denied" keeps the records of what was refused.
func TestAccessDeniedOnly(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, "[log]\naccess = \"denied\"\n")
	c, _ := connect(t, d.address, echo)
	c.Close()
	eventually(t, "the tunnel has ended", func() bool { return d.metric(`cleversocks_relay_end_total{cause="client_closed"}`) == "1" })
	own := netip.MustParseAddrPort(d.address)
	if _, reply := connect(t, d.address, own); reply != notAllowed {
		t.Fatalf("reply %d", reply)
	}
	d.record(own.String())
	if strings.Contains(d.log(), echo.String()) {
		t.Error("a connection that was served is recorded")
	}
}

// A long connection is recorded while it lasts.
func TestInterimRecords(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	d := start(t, "[log]\ninterim = \"1s\"\n")
	c, _ := connect(t, d.address, echo)
	echoes(t, c, "12345678")
	got := d.find("of a connection that goes on", func(l line) bool { return l["msg"] == "connection goes on" && l.text("bytes_in") == "8" })
	if got.text("target") != echo.String() || got["cause"] != nil {
		t.Errorf("%v", got)
	}
}

func TestPasswords(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	credentials := writeFile(t, "credentials", "alice:p\xe4ss:word\n")
	d := start(t, "[limits]\nauth_failures = { max = 0 }\n[auth]\ncredentials_file = \""+credentials+"\"\n")
	for name, tt := range map[string]struct {
		user string
		ok   bool
	}{
		"right":                 {"alice:p\xe4ss:word@", true},
		"wrong password":        {"alice:wrong@", false},
		"longer password":       {"alice:p\xe4ss:word2@", false},
		"unknown user":          {"bob:p\xe4ss:word@", false},
		"empty password":        {"alice:@", false},
		"nothing":               {"", false},
		"right, escaped":        {"alice:p%E4ss%3Aword@", true},
		"password as user name": {"p%E4ss%3Aword:alice@", false},
	} {
		t.Run(name, func(t *testing.T) {
			user, _, _ := strings.Cut(tt.user, "@")
			args := []string{"--proxy", "socks5h://" + d.address, web.URL}
			if strings.Contains(user, "%") {
				args[1] = "socks5h://" + user + "@" + d.address
			} else if user != "" {
				args = append([]string{"--proxy-user", user}, args...)
			}
			if _, err := curl(t, args...); (err == nil) != tt.ok {
				t.Errorf("%v", err)
			}
		})
	}
	failed := d.waitLine("msg", "authentication failed")
	if failed.text("client") != "127.0.0.1" || failed.text("method") != "password" || failed.text("user") == "<nil>" {
		t.Errorf("%v", failed)
	}
}

// -P is scrubbed from where other users of the machine could read it.
func TestPasswordIsScrubbedFromTheArguments(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	for name, args := range map[string][]string{
		"short": {"-P", "s3cret"}, "joined": {"-Ps3cret"}, "long": {"--password", "s3cret"}, "long, joined": {"--password=s3cret"},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, "", append([]string{"-u", "alice"}, args...)...)
			cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(d.Cmd.Process.Pid) + "/cmdline")
			if err != nil || strings.Contains(string(cmdline), "s3cret") {
				t.Errorf("%q, %v", cmdline, err)
			}
			d.find("that names the alternatives", func(l line) bool { return strings.Contains(l.text("warning"), "--credentials-file") })
			mustCurl(t, "--proxy", "socks5h://alice:s3cret@"+d.address, web.URL)
			d.signal(syscall.SIGHUP) // and is still known afterwards
			d.waitMessage("reloaded")
			mustCurl(t, "--proxy", "socks5h://alice:s3cret@"+d.address, web.URL)
		})
	}
}

func TestDefaultAddresses(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	first := startProgram(t, "--log-format", "json")
	if first.address != "127.0.0.1:1080" || first.admin != "127.0.0.1:9180" {
		t.Errorf("listens on %s, admin on %s", first.address, first.admin)
	}
	mustCurl(t, "--proxy", "socks5h://127.0.0.1:1080", web.URL)
	out, err := exec.Command(binary, "healthcheck").CombinedOutput()
	if err != nil {
		t.Errorf("healthcheck: %v: %s", err, out)
	}
	// A second one: the default admin port is taken, which is a warning.
	second := startProgram(t, "-p", "0", "--log-format", "json")
	second.waitMessage("default admin port is taken")
	mustCurl(t, "--proxy", "socks5h://"+second.address, web.URL)
	// The default proxy port is taken, or a configured admin port: an error.
	for _, args := range [][]string{{}, {"-p", "0", "--admin", "127.0.0.1:9180"}} {
		out, err := exec.Command(binary, args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "address already in use") {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
}

func TestMicrosocksFlags(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	p := freePort(t)
	cmd := exec.Command(binary, "-i", "192.0.2.1", "-p"+p, "-u", "alice", "-P", "s3cret", "-b", "127.0.0.5", "-m10", "--log-format", "json")
	startCommand(t, cmd)
	mustCurl(t, "--proxy", "socks5h://alice:s3cret@192.0.2.1:"+p, web.URL)
	quiet := exec.Command(binary, "-qp", freePort(t), "--admin", "")
	stderr := &strings.Builder{}
	quiet.Stderr = stderr
	if err := quiet.Start(); err != nil {
		t.Fatal(err)
	}
	at := "127.0.0.1:" + quiet.Args[2]
	eventually(t, "the quiet one serves", func() bool {
		c, err := net.DialTimeout("tcp", at, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	mustCurl(t, "--proxy", "socks5h://"+at, web.URL)
	_ = quiet.Process.Signal(syscall.SIGTERM)
	if err := quiet.Wait(); err != nil || stderr.String() != "" {
		t.Errorf("-q: %v, said %q", err, stderr.String())
	}
}

// A changed reuse_port takes a restart: to open other sockets on the port would
// need the old ones closed, with the clients in their queues. The log says so,
// and the listener goes on as it is.
func TestReusePortTakesARestart(t *testing.T) {
	const admin = "[admin]\naddress = \"127.0.0.1:0\"\n"
	listener := "[[listener]]\naddress = \"127.0.0.1:" + freePort(t) + "\"\n"
	config := writeFile(t, "c.toml", listener+"reuse_port = 2\n"+admin)
	d := startProgram(t, "--config", config, "--log-format", "json")
	rewrite(t, config, listener+admin)
	d.signal(syscall.SIGHUP)
	l := d.find("about the sockets", func(l line) bool { return strings.HasPrefix(l.text("msg"), "reuse_port has changed") })
	if l.text("sockets") != "2" || l.text("reuse_port") != "1" || l.text("level") != "WARN" {
		t.Errorf("logged %v", l)
	}
	d.waitLine("generation", "2")
	echo := echoServer(t, "127.0.0.1:0")
	if _, code := connect(t, d.address, echo); code != succeeded {
		t.Errorf("reply %d", code)
	}
}
