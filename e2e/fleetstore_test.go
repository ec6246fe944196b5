package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Every kind of store that the URL can name carries a fleet: with TLS and an ACL
// user that may do no more than it has to, on a unix socket, a cluster, and one
// that sentinels name.
func TestFleetStores(t *testing.T) {
	t.Parallel()
	echo := echoServer(t, "127.0.0.1:0")
	password := writeFile(t, "password", "pass-word")
	for name, of := range map[string]func(t *testing.T) (settings string){
		"TLS and ACL": func(t *testing.T) string { t.Helper(); return storeWithTLS(t, password) },
		"unix socket": func(t *testing.T) string {
			t.Helper()
			dir := t.TempDir()
			runStore(t, "--port", "0", "--unixsocket", dir+"/s", "--dir", dir)
			return fmt.Sprintf("url = \"unix://%s/s?db=3\"\n", dir)
		},
		"cluster":  storeCluster,
		"sentinel": storeSentinel,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := start(t, withAPI(t, fleetUsers+"\n[shared_state]\ntimeout = \"200ms\"\n"+of(t)))
			eventually(t, "the store is used", func() bool { _, body := d.get("/readyz"); return strings.TrimSpace(body) == "ready" })
			eventually(t, "the replica is counted", func() bool { return d.metric("cleversocks_shared_replicas") == "1" })
			for range 10 {
				mustTunnel(t, d, "127.0.0.1", "alice", echo)
			}
			d.call("POST", "/api/v1/bans", object{"source": "198.51.100.7"}, nil)
			for _, call := range []string{"fleet", "beat", "enter", "fail", "event", "once", "usage"} {
				eventually(t, call+" works", func() bool { return d.metric(`cleversocks_shared_calls_total{call="`+call+`",outcome="ok"}`) != "0" })
				if n := d.metric(`cleversocks_shared_calls_total{call="` + call + `",outcome="error"}`); n != "0" {
					t.Errorf("%s: %s errors", call, n)
				}
			}
			if strings.Contains(d.log(), "pass-word") {
				t.Error("the password is in the log")
			}
		})
	}
}

// runStore runs a redis-server until the test ends.
func runStore(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command(program(t, "redis-server", "redis-server"), append(args, "--save", "", "--appendonly", "no", "--loglevel", "warning")...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}

func storeWithTLS(t *testing.T, password string) string {
	t.Helper()
	ca := newAuthority(t)
	ca.issue("store", "localhost")
	dir, address := t.TempDir(), freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	acl := filepath.Join(dir, "users.acl")
	if err := os.WriteFile(acl, []byte("user default off\nuser app on >pass-word ~fleet1:* +@read +@write +@scripting +@connection +time +cluster|slots +cluster|shards -@admin\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	runStore(t, "--bind", "127.0.0.1", "--port", "0", "--tls-port", port, "--tls-cert-file", ca.path("store.crt"), "--tls-key-file", ca.path("store.key"),
		"--tls-ca-cert-file", ca.path("ca.pem"), "--tls-auth-clients", "no", "--aclfile", acl, "--dir", dir)
	return fmt.Sprintf("url = \"rediss://app@%s\"\npassword_file = '%s'\nca_file = '%s'\nprefix = \"fleet1:\"\n", address, password, ca.path("ca.pem"))
}

func storeCluster(t *testing.T) string {
	t.Helper()
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	bus := freeAddress(t)
	_, busPort, _ := net.SplitHostPort(bus)
	runStore(t, "--bind", "127.0.0.1", "--port", port, "--cluster-enabled", "yes", "--cluster-port", busPort, "--dir", t.TempDir(), "--requirepass", storePassword)
	s := &store{t: t, address: address, pass: storePassword}
	eventually(t, "the cluster has all slots", func() bool {
		_, _ = s.ask("CLUSTER ADDSLOTSRANGE 0 16383")
		state, err := s.ask("CLUSTER INFO")
		return err == nil && strings.Contains(strings.Join(state, ""), "cluster_state:ok")
	})
	return fmt.Sprintf("url = \"redis://%s,%s\"\npassword_file = '%s'\n", address, address, writeFile(t, "p", storePassword))
}

func storeSentinel(t *testing.T) string {
	t.Helper()
	master, sentinel := freeAddress(t), freeAddress(t)
	_, port, _ := net.SplitHostPort(master)
	_, at, _ := net.SplitHostPort(sentinel)
	dir := t.TempDir()
	runStore(t, "--bind", "127.0.0.1", "--port", port, "--dir", dir)
	file := filepath.Join(dir, "sentinel.conf")
	n, _ := strconv.Atoi(at)
	if err := os.WriteFile(file, fmt.Appendf(nil, "port %d\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 %s 1\n", n, port), 0o600); err != nil {
		t.Fatal(err)
	}
	runSentinel(t, file)
	return fmt.Sprintf("url = \"redis+sentinel://%s/main\"\n", sentinel)
}

// runSentinel starts a sentinel, which writes its file anew.
func runSentinel(t *testing.T, file string) {
	t.Helper()
	cmd := exec.Command("redis-server", file, "--sentinel")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
}
