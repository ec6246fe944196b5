package dist

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cleversocks/e2e/need"
	"cleversocks/e2e/written"
)

// shared is a folder for what several tests need.
var shared string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "cleversocks-dist-")
	if err != nil {
		panic(err)
	}
	shared = dir
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// built is the program with the race detector, once for all tests.
var built = sync.OnceValues(func() (string, error) { return need.Built(shared) })

// plain is the program, built as it is.
func plain(t *testing.T) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// process is a program whose standard error is kept.
type process struct {
	t   *testing.T
	cmd *exec.Cmd

	said written.Text
}

func launch(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			_, _ = io.WriteString(&p.said, s.Text()+"\n")
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-read:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
		}
		_ = cmd.Wait()
		if t.Failed() || strings.Contains(p.log(), "DATA RACE") {
			t.Errorf("it said:\n%s", p.log())
		}
	})
	return p
}

func (p *process) log() string { return p.said.String() }

// says waits until it has said something.
func (p *process) says(text string) {
	p.t.Helper()
	await(p.t, "it says "+strconv.Quote(text), func() bool { return strings.Contains(p.log(), text) })
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		pause := time.NewTimer(20 * time.Millisecond)
		<-pause.C
	}
}

// free is an address that nobody has.
func free(t *testing.T) string {
	t.Helper()
	return need.Free(t).String()
}

func configuration(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// systemd passes sockets by name: two under one (traefik#9891 took one alone), a
// unix socket beside them, the admin endpoint's; one that nobody asks for is
// closed and named. An upgrade passes them on, and a reload may take a name away
// and bring it back. What is queued at the end is the next start's.
func TestSocketActivation(t *testing.T) {
	activate, program := need.Program(t, "systemd-socket-activate", "systemd"), plain(t)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "here") }))
	defer site.Close()
	one, two, admin, extra := free(t), free(t), free(t), free(t)
	path := filepath.Join(t.TempDir(), "s")
	text := "[[listener]]\naddress = 'systemd:proxy'\n[[listener]]\naddress = 'systemd:local'\nusers_by_uid = { 0 = 'root' }\n[admin]\naddress = 'systemd:admin'\n[[user]]\nname = 'root'\n[auth]\nrequired = false\n"
	config := configuration(t, text)
	p := launch(t, exec.Command(activate, "-l", one, "-l", path, "-l", admin, "-l", two, "-l", extra, "--fdname=proxy:local:admin:proxy:extra",
		program, "--config", config, "--log-level", "debug"))
	await(t, "systemd listens", func() bool {
		c, err := net.Dial("tcp", admin) // which starts it
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	p.says("msg=ready")
	p.says("names=extra")
	if c, err := net.Dial("tcp", extra); err == nil {
		c.Close()
		t.Error("the socket that nobody asked for is open")
	}
	works := func(when string) {
		t.Helper()
		for _, proxy := range []string{"socks5h://" + one, "http://" + two, "socks5h://localhost" + path} {
			if out, err := try(t, "", nil, "curl", "-s", "-m", "20", "--proxy", proxy, site.URL); out != "here" {
				t.Errorf("%s, through %s: %q, %v", when, proxy, out, err)
			}
		}
		if out := run(t, "", nil, "curl", "-s", "-m", "20", "http://"+admin+"/readyz"); !strings.HasPrefix(out, "ready") {
			t.Errorf("%s: %q", when, out)
		}
	}
	works("at first")
	p.says(`client="unix:uid=0"`) // the unix socket's client
	without := strings.Replace(text, "[[listener]]\naddress = 'systemd:local'\nusers_by_uid = { 0 = 'root' }\n", "", 1)
	for n, next := range []string{without, text} {
		if err := os.WriteFile(config, []byte(next), 0o600); err != nil {
			t.Fatal(err)
		}
		_ = p.cmd.Process.Signal(syscall.SIGHUP)
		await(t, "reloaded", func() bool { return strings.Count(p.log(), "msg=reloaded") == n+1 })
	}
	works("after reloads")
	if strings.Contains(p.log(), "reuse_port has changed") {
		t.Error("two sockets of a name are taken for a change of reuse_port")
	}
	_ = p.cmd.Process.Signal(syscall.SIGUSR2)
	p.says("the predecessor has ended")
	works("after an upgrade")
	if _, err := os.Stat(path); err != nil {
		t.Errorf("systemd's file: %v", err)
	}
	_, rest, _ := strings.Cut(p.log(), "upgraded: the successor serves, and this process drains\" pid=")
	pid, err := strconv.Atoi(rest[:strings.IndexByte(rest, '\n')])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

// What cannot be accepted from is refused at the start, with what to change.
func TestSocketActivationRefusals(t *testing.T) {
	activate, program := need.Program(t, "systemd-socket-activate", "systemd"), plain(t)
	for name, c := range map[string]struct {
		options  []string
		settings string
		knock    string // network
		want     string
	}{
		"another name": {[]string{"--fdname=web"}, "[[listener]]\naddress = 'systemd:proxy'\n", "tcp", `listener[0].address: no socket of that name was passed: there is "web"`},
		"datagrams":    {[]string{"--datagram", "--fdname=proxy"}, "[[listener]]\naddress = 'systemd:proxy'\n", "udp", "datagram socket"},
		"a connection": {[]string{"--accept", "--fdname=proxy"}, "[[listener]]\naddress = 'systemd:proxy'\n", "tcp", "Accept=no"},
		"the admin's":  {[]string{"--fdname=web"}, "[[listener]]\naddress = '127.0.0.1:0'\n[admin]\naddress = 'systemd:admin'\n", "tcp", `admin.address: systemd:admin`},
		"user ids":     {[]string{"--fdname=proxy"}, "[[listener]]\naddress = 'systemd:proxy'\nusers_by_uid = { 0 = 'root' }\n[[user]]\nname = 'root'\n", "tcp", "users_by_uid: is for unix sockets"},
	} {
		t.Run(name, func(t *testing.T) {
			at := free(t)
			config := configuration(t, c.settings)
			p := launch(t, exec.Command(activate, append(append([]string{"-l", at}, c.options...), program, "--config", config)...))
			await(t, "it starts and refuses", func() bool {
				if knock, err := net.Dial(c.knock, at); err == nil {
					_, _ = knock.Write([]byte("x"))
					knock.Close()
				}
				return strings.Contains(p.log(), c.want)
			})
		})
	}
	out, err := try(t, "", nil, program, "--config", configuration(t, "[[listener]]\naddress = 'systemd:proxy'\n"))
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 2 || !strings.Contains(out, "LISTEN_FDS is not set") { //nolint:errorlint // as exec gives it
		t.Errorf("%v: %s", err, out)
	}
	out, err = try(t, "", []string{"LISTEN_FDS=1", "LISTEN_PID=1"}, program, "--config", configuration(t, "[[listener]]\naddress = 'systemd:proxy'\n"))
	if err == nil || !strings.Contains(out, "LISTEN_PID is 1, and this is process") {
		t.Errorf("%v: %s", err, out)
	}
}

// manager is the service manager's end of sd_notify(3).
type manager struct {
	t      *testing.T
	socket *net.UnixConn
	path   string
}

func newManager(t *testing.T) *manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { socket.Close() })
	raw, err := socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
	if err != nil {
		t.Fatal(err)
	}
	return &manager{t: t, socket: socket, path: path}
}

// hear is the next message, with who sent it. WATCHDOG=1 from the process given
// is passed over; 0: from anybody.
func (m *manager) hear(watched int) (text string, pid int) {
	m.t.Helper()
	_ = m.socket.SetReadDeadline(time.Now().Add(patience))
	for {
		b, oob := make([]byte, 4096), make([]byte, 128)
		n, on, _, _, err := m.socket.ReadMsgUnix(b, oob)
		if err != nil {
			m.t.Fatal(err)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:on])
		if err != nil || len(messages) == 0 {
			m.t.Fatal(err)
		}
		who, err := unix.ParseUnixCredentials(&messages[0])
		if err != nil {
			m.t.Fatal(err)
		}
		if string(b[:n]) != "WATCHDOG=1" || watched != 0 && int(who.Pid) != watched {
			return string(b[:n]), int(who.Pid)
		}
	}
}

// A service manager hears who the main process is, in the message that says that
// the upgrade is done, and from the main process alone. The successor is a child
// of the manager's, as nobody else would be told of its end, and feeds the
// watchdog that was meant for its predecessor. A predecessor that ends does not
// say that the service stops.
func TestUpgradeUnderAManager(t *testing.T) {
	program, m := plain(t), newManager(t)
	config := configuration(t, "[[listener]]\naddress = '127.0.0.1:0'\n[admin]\naddress = ''\n")
	cmd := exec.Command(program, "--config", config)
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.path, "WATCHDOG_USEC=1000000")
	p := launch(t, cmd)
	first := p.cmd.Process.Pid
	if text, pid := m.hear(0); !strings.HasPrefix(text, "READY=1") || pid != first {
		t.Fatalf("%q from %d", text, pid)
	}
	_ = p.cmd.Process.Signal(syscall.SIGHUP)
	for _, want := range []string{"RELOADING=1\nMONOTONIC_USEC=", "READY=1\nSTATUS=serving"} {
		if text, pid := m.hear(0); !strings.HasPrefix(text, want) || pid != first {
			t.Errorf("%q from %d", text, pid)
		}
	}
	broken := configuration(t, "nonsense")
	good, _ := os.ReadFile(config)
	bad, _ := os.ReadFile(broken)
	_ = os.WriteFile(config, bad, 0o600)
	_ = p.cmd.Process.Signal(syscall.SIGUSR2)
	for _, want := range []string{"RELOADING=1\nMONOTONIC_USEC=", "READY=1\nSTATUS=serving; the last upgrade failed: "} {
		if text, pid := m.hear(0); !strings.HasPrefix(text, want) || pid != first {
			t.Errorf("%q from %d", text, pid)
		}
	}
	_ = os.WriteFile(config, good, 0o600)
	_ = p.cmd.Process.Signal(syscall.SIGUSR2)
	if text, pid := m.hear(0); !strings.HasPrefix(text, "RELOADING=1\nMONOTONIC_USEC=") || pid != first {
		t.Errorf("%q from %d", text, pid)
	}
	text, pid := m.hear(0)
	var second int
	if _, err := fmt.Sscanf(text, "MAINPID=%d\nREADY=1\nSTATUS=serving", &second); err != nil || pid != first {
		t.Fatalf("%q from %d: %v", text, pid, err)
	}
	ended := false
	t.Cleanup(func() {
		if !ended {
			_ = syscall.Kill(second, syscall.SIGKILL)
		}
	})
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", second))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	if parent := strings.Fields(rest)[1]; parent != strconv.Itoa(os.Getpid()) {
		t.Errorf("its parent is %s, and not %d", parent, os.Getpid())
	}
	if text, pid := m.hear(-1); text != "WATCHDOG=1" || pid != second {
		t.Errorf("%q from %d", text, pid)
	}
	p.says("the predecessor has ended")
	if err := syscall.Kill(second, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if text, pid := m.hear(0); !strings.HasPrefix(text, "STOPPING=1") || pid != second {
		t.Errorf("%q from %d", text, pid)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(second, &status, 0, nil); err != nil || status.ExitStatus() != 0 {
		t.Errorf("the manager's child: %v, %v", status, err)
	}
	ended = true
}
