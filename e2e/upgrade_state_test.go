package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What is known of clients passes to the successor without any file: who is let
// in by auth-once, who is banned and who is about to be, what of a quota is
// used. What a tunnel of the predecessor still moves counts there too, and ends
// with the quota, which the successor's clients use as well.
func TestUpgradePassesState(t *testing.T) {
	for _, directory := range []string{"", t.TempDir()} {
		echo := echoServer(t, "127.0.0.1:0")
		d := lineageOf(start(t, withAPI(t, "[state]\ndirectory = '"+directory+`'
[auth]
once = { enabled = true }
allow_plain_passwords = true
[limits]
auth_failures = { max = 3, window = "10m", ban = "10m", ban_max = "1h" }
[acl]
block_private = false
[[listener]]
address = "127.0.0.1:0"
[[user]]
name = "alice"
password = "right"
quota = { bytes = "100KiB", period = "720h" }
`)))
		c := login(t, d.address, "127.0.0.1", "alice", "right")
		if code := request(t, c, 1, echo); code != 0 {
			t.Fatalf("reply %d", code)
		}
		echoes(t, c, strings.Repeat("x", 10_000)) // 20,000 bytes
		wrong := func(source, password string) {
			c := dialProxyFrom(t, d.address, source)
			defer c.Close()
			send(t, c, 5, 1, 2)
			receive(t, c, 2)
			_, _ = c.Write([]byte("\x01\x05alice" + string(rune(len(password))) + password))
			_, _ = io.Copy(io.Discard, c)
		}
		for i := range 3 {
			wrong("127.0.0.3", fmt.Sprint("wrong", i))
		}
		for i := range 2 {
			wrong("127.0.0.4", fmt.Sprint("wrong", i))
		}
		d.upgrade()
		var bans, whitelist, users []object
		d.call("GET", "/api/v1/bans", nil, &bans)
		if len(bans) != 1 || bans[0]["source"] != "127.0.0.3/32" {
			t.Errorf("bans: %v", bans)
		}
		d.call("GET", "/api/v1/whitelist", nil, &whitelist)
		if len(whitelist) != 1 || whitelist[0]["address"] != "127.0.0.1" {
			t.Errorf("whitelist: %v", whitelist)
		}
		wrong("127.0.0.4", "wrong2") // the third
		d.call("GET", "/api/v1/bans", nil, &bans)
		if len(bans) != 2 {
			t.Errorf("bans: %v", bans)
		}
		used := func() float64 {
			d.call("GET", "/api/v1/users", nil, &users)
			return users[0]["quota"].(object)["used"].(float64)
		}
		if n := used(); n != 20_000 {
			t.Errorf("%v bytes used", n)
		}
		echoes(t, c, strings.Repeat("y", 5_000)) // in the predecessor
		eventually(t, "the successor counts what the predecessor moves", func() bool { return used() == 30_000 })
		anew, code := connect(t, d.address, echo) // auth-once
		if code != 0 {
			t.Fatalf("reply %d", code)
		}
		echoes(t, anew, strings.Repeat("z", 30_000))
		eventually(t, "both count", func() bool { return used() == 90_000 })
		// The predecessor hears of that, and has 12,400 bytes left.
		eventually(t, "the quota ends the predecessor's tunnel", func() bool {
			if _, err := c.Write(bytes.Repeat([]byte("q"), 500)); err != nil {
				return true
			}
			_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			_, err := io.ReadFull(c, make([]byte, 500))
			return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
		})
		if n := used(); n < 90_000 || n > 200_000 {
			t.Errorf("%v bytes of 102,400 used", n)
		}
	}
}

// Unix sockets, the admin endpoint's too, keep their files over upgrades, and
// the last process takes them along. A file that somebody has removed is made
// anew. (tableflip#24: clients found no file any more.)
func TestUpgradeKeepsUnixSockets(t *testing.T) {
	dir := t.TempDir()
	path, admin := filepath.Join(dir, "s"), filepath.Join(dir, "a")
	config := writeFile(t, "c.toml", "[[listener]]\naddress = 'unix:"+path+"'\n[[listener]]\naddress = 'unix:@cleversocks-upgrade'\n[admin]\naddress = 'unix:"+admin+"'\n")
	d := lineageOf(startProgram(t, "--config", config, "--log-format", "json"))
	get := func() error {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", admin)
		}}}
		resp, err := client.Get("http://localhost/readyz")
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	for n := range 3 {
		if n == 2 {
			if err := errors.Join(os.Remove(path), os.Remove(admin)); err != nil {
				t.Fatal(err)
			}
		}
		old := d.pid
		d.upgrade()
		eventually(t, "the old process ends", func() bool { return !runs(old) })
		if err := get(); err != nil {
			t.Errorf("admin after upgrade %d: %v", n+1, err)
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatalf("after upgrade %d: %v", n+1, err)
		}
		send(t, c, 5, 1, 0)
		if got := receive(t, c, 2); got[1] != 0 {
			t.Errorf("%v", got)
		}
		c.Close()
		c, err = net.Dial("unix", "@cleversocks-upgrade")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
	d.tell(syscall.SIGTERM)
	eventually(t, "the files go with the last process", func() bool {
		left, _ := filepath.Glob(filepath.Join(dir, "*"))
		return len(left) == 0
	})
}

// Secrets of the command line and the environment reach the successor, and the
// one after it, and nobody can read them in /proc; nor is a configuration lost
// that came through a pipe.
func TestUpgradePassesSecrets(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	for _, way := range []struct {
		name, env string
		args      string
	}{
		{"flag", "NOTHING=", "-u alice -P sekret-1"},
		{"upstream", "CLEVERSOCKS_AUTH__PASSWORD=sekret-1", "-u alice -f 192.0.2.99:80,x:sekret-2@192.0.2.98:1080,192.0.2.99:80"},
		{"environment", "CLEVERSOCKS_AUTH__PASSWORD=sekret-1", "-u alice"},
	} {
		t.Run(way.name, func(t *testing.T) {
			text := "[[listener]]\naddress = '127.0.0.1:0'\n[admin]\naddress = '127.0.0.1:0'\n"
			cmd := exec.Command("bash", "-c", "exec "+binary+" --log-format json "+way.args+" --config <(printf %s \"$SETTINGS\")")
			cmd.Env = []string{"SETTINGS=" + text, way.env}
			l := lineageOf(startCommand(t, cmd))
			for range 2 {
				l.upgrade()
				for _, file := range []string{"cmdline", "environ"} {
					b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", l.pid, file))
					if err != nil {
						t.Fatal(err)
					}
					if bytes.Contains(b, []byte("sekret")) {
						t.Errorf("%s: %q", file, b)
					}
				}
				c := login(t, l.address, "127.0.0.1", "alice", "sekret-1")
				if code := request(t, c, 1, echo); code != 0 {
					t.Errorf("reply %d", code)
				}
			}
		})
	}
}

// TLS clients go on with the tickets that they have: an upgrade had all of them come
// back with a whole handshake each.
func TestUpgradeKeepsTickets(t *testing.T) {
	ca := newAuthority(t)
	d := lineageOf(start(t, ca.tlsListener("")))
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	client := &tls.Config{RootCAs: pool, ServerName: "localhost", MaxVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	for n := range 3 { // 1.2: a ticket comes with the handshake
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", d.address, client)
		if err != nil {
			t.Fatal(err)
		}
		if resumed := c.ConnectionState().DidResume; resumed != (n > 0) {
			t.Errorf("connection %d: resumed %v", n, resumed)
		}
		c.Close()
		d.upgrade()
	}
}
