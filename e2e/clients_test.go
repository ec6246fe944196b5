package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// run runs a real program and returns what it printed.
func run(t *testing.T, env []string, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// socksConf is the configuration of dante's client for a proxy. It goes
// around the proxy for the networks of its interfaces, hence 198.51.100.1.
func socksConf(t *testing.T, proxy string) []string {
	t.Helper()
	host, port, _ := net.SplitHostPort(proxy)
	return []string{"SOCKS_CONF=" + writeFile(t, "socks.conf", fmt.Sprintf(`route {
  from: 0.0.0.0/0 to: 0.0.0.0/0 via: %s port = %s
  proxyprotocol: socks_v5
  protocol: tcp udp
  command: bind connect udpassociate
  method: none
}
`, host, port))}
}

// dnsServer answers every question for an address with 203.0.113.53.
func dnsServer(t *testing.T, address string) netip.AddrPort {
	t.Helper()
	pc, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		a := new(dns.Msg)
		a.SetReply(q)
		a.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
			A:   net.IPv4(203, 0, 113, 53),
		}}
		_ = w.WriteMsg(a)
	})}
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	t.Cleanup(func() { pc.Close(); <-done })
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

// DNS over UDP through dante's client: kdig and drill, which know nothing of
// SOCKS.
func TestSocksifyUDP(t *testing.T) {
	server := dnsServer(t, "198.51.100.1:0")
	d := start(t, "")
	socksify := program(t, "socksify", "dante-client")
	p := fmt.Sprint(server.Port())
	for name, args := range map[string][]string{
		"kdig":  {program(t, "kdig", "knot-dnsutils"), "+notcp", "@198.51.100.1", "-p", p, "www.example.org", "A"},
		"drill": {program(t, "drill", "ldnsutils"), "-u", "-p", p, "www.example.org", "@198.51.100.1", "A"},
	} {
		out, err := run(t, socksConf(t, d.address), socksify, args...)
		if err != nil || !strings.Contains(out, "203.0.113.53") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	l := d.find("of an association", func(l line) bool { return l["msg"] == "connection" && l.text("command") == "udp" })
	if in, _ := l["bytes_in"].(float64); l.text("cause") != "client_closed" || l.text("reply") != "succeeded" || in < 12 {
		t.Errorf("recorded as %v", l)
	}
}

// PySocks asks ASSOCIATE for the name "0".
func TestPySocksUDP(t *testing.T) {
	server := dnsServer(t, "198.51.100.1:0")
	d := start(t, "")
	script := `
import socket, socks, sys
s = socks.socksocket(socket.AF_INET, socket.SOCK_DGRAM)
s.set_proxy(socks.SOCKS5, sys.argv[1], int(sys.argv[2]))
s.settimeout(10)
q = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x03org\x00\x00\x01\x00\x01"
s.sendto(q, ("198.51.100.1", int(sys.argv[3])))
a, peer = s.recvfrom(512)
print(a[-4:] == bytes([203, 0, 113, 53]), peer)
`
	host, p, _ := net.SplitHostPort(d.address)
	python := "/usr/bin/python3" // Debian's, which has Debian's modules
	out, err := run(t, nil, python, "-c", script, host, p, fmt.Sprint(server.Port()))
	if want := fmt.Sprintf("True ('198.51.100.1', %d)", server.Port()); err != nil || strings.TrimSpace(out) != want {
		t.Fatalf("(apt-get install python3-socks) %v\n%s", err, out)
	}
}

// An FTP server connects back to the client: active mode, which needs BIND. The port is
// where our connection to the server comes from: servers connect nowhere else (vsftpd
// has port_promiscuous for those who want it), and the client came to 127.0.0.1, which
// is no address of ours for others.
func TestActiveFTP(t *testing.T) {
	vsftpd := program(t, "vsftpd", "vsftpd")
	ftp := program(t, "tnftp", "tnftp")
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "file.txt"), bytes.Repeat([]byte("active mode\n"), 10000), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{root, filepath.Dir(root)} {
		if err := os.Chmod(dir, 0o555); err != nil { // vsftpd serves no writable root
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Dir(root), 0o755); _ = os.Chmod(root, 0o755) })
	p := freePort(t)
	config := writeFile(t, "vsftpd.conf", fmt.Sprintf(`listen=YES
listen_address=198.51.100.1
listen_port=%s
background=NO
anonymous_enable=YES
no_anon_password=YES
local_enable=NO
anon_root=%s
connect_from_port_20=NO
pasv_enable=NO
seccomp_sandbox=NO
secure_chroot_dir=%s
xferlog_enable=NO
`, p, root, root))
	server := exec.Command(vsftpd, config)
	var said bytes.Buffer
	server.Stdout, server.Stderr = &said, &said
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	awaitPort(t, "198.51.100.1:"+p)
	d := start(t, "")
	got := filepath.Join(t.TempDir(), "got.txt")
	out, err := run(t, socksConf(t, d.address), program(t, "socksify", "dante-client"), ftp, "-A", "-o", got,
		"ftp://198.51.100.1:"+p+"/file.txt")
	if err != nil {
		t.Fatalf("%v\n%s\nthe server: %s", err, out, said.String())
	}
	b, err := os.ReadFile(got)
	if err != nil || len(b) != 120000 {
		t.Errorf("%d bytes, %v\n%s", len(b), err, out)
	}
	l := d.find("of a BIND", func(l line) bool { return l["msg"] == "connection" && l.text("command") == "bind" })
	if l.text("bytes_out") != "120000" || !strings.HasPrefix(l.text("host_ip"), "198.51.100.1:") || l.text("cause") != "server_closed" {
		t.Errorf("recorded as %v", l)
	}
}

// awaitPort waits until an address accepts, without a word to it.
func awaitPort(t *testing.T, address string) {
	t.Helper()
	eventually(t, address+" accepts", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func TestProxychains(t *testing.T) {
	web := origin(t, "198.51.100.1:0")
	d := start(t, withUser)
	host, p, _ := net.SplitHostPort(d.address)
	for _, proxy := range []string{"socks5 " + host + " " + p + " ann s3cret", "http " + host + " " + p + " ann s3cret"} {
		config := writeFile(t, "proxychains.conf", "strict_chain\nproxy_dns\n[ProxyList]\n"+proxy+"\n")
		out, err := run(t, nil, program(t, "proxychains4", "proxychains4"), "-q", "-f", config, program(t, "curl", "curl"),
			"--silent", "--show-error", "--noproxy", "*", web.URL+"/")
		if err != nil || !strings.Contains(out, "hello from 198.51.100.1") {
			t.Errorf("%.5s: %v\n%s", proxy, err, out)
		}
	}
	open := start(t, "")
	host, p, _ = net.SplitHostPort(open.address)
	config := writeFile(t, "proxychains.conf", "strict_chain\n[ProxyList]\nsocks4 "+host+" "+p+"\n")
	out, err := run(t, nil, program(t, "proxychains4", "proxychains4"), "-q", "-f", config, program(t, "curl", "curl"),
		"--silent", "--show-error", "--noproxy", "*", web.URL+"/")
	if err != nil || !strings.Contains(out, "hello from 198.51.100.1") {
		t.Errorf("socks4: %v\n%s", err, out)
	}
}

// A shell on another host, through ncat's three kinds of proxy.
func TestSSHThroughNcat(t *testing.T) {
	dir := t.TempDir()
	keygen := program(t, "ssh-keygen", "openssh-client")
	for _, key := range []string{"host", "user"} {
		if out, err := run(t, nil, keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, key)); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	p := freePort(t)
	var said bytes.Buffer
	server := exec.Command(program(t, "/usr/sbin/sshd", "openssh-server"), "-D", "-e", "-f", "/dev/null", "-p", p,
		"-o", "ListenAddress=127.0.0.1", "-h", filepath.Join(dir, "host"), "-o", "AuthorizedKeysFile="+filepath.Join(dir, "user.pub"),
		"-o", "StrictModes=no", "-o", "UsePAM=no", "-o", "PidFile=none", "-o", "PermitRootLogin=yes")
	server.Stdout, server.Stderr = &said, &said
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	awaitPort(t, "127.0.0.1:"+p)
	d := start(t, "")
	ncat := program(t, "ncat", "ncat")
	for _, kind := range []string{"socks4", "socks5", "http"} {
		out, err := run(t, nil, program(t, "ssh", "openssh-client"), "-F", "none", "-p", p, "-i", filepath.Join(dir, "user"),
			"-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
			"-o", "ProxyCommand="+ncat+" --proxy "+d.address+" --proxy-type "+kind+" %h %p",
			"root@127.0.0.1", "seq 100000 | sha256sum")
		if err != nil || !strings.HasPrefix(out, "5e22f3ea") && len(out) < 64 {
			t.Errorf("%s: %v\n%s\nthe server: %s", kind, err, out, said.String())
		}
		d.find("of ssh over "+kind, func(l line) bool {
			in, _ := l["bytes_in"].(float64)
			return l.text("protocol") == kind && l.text("target") == "127.0.0.1:"+p && in > 1000
		})
	}
}

// git asks first and logs in on the second try, on the same connection.
func TestGitThroughHTTPProxy(t *testing.T) {
	git := program(t, "git", "git")
	dir := t.TempDir()
	work, bare := filepath.Join(dir, "work"), filepath.Join(dir, "www", "repo.git")
	env := []string{
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_TERMINAL_PROMPT=0", "no_proxy=", "NO_PROXY=",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org",
	}
	for _, args := range [][]string{
		{"init", "-q", work},
		{"-C", work, "commit", "-q", "--allow-empty", "-m", "through a proxy"},
		{"clone", "-q", "--bare", work, bare},
		{"-C", bare, "update-server-info"},
	} {
		if out, err := run(t, env, git, args...); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	web := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(bare))))
	t.Cleanup(web.Close)
	d := start(t, withUser)
	got := filepath.Join(dir, "got")
	out, err := run(t, append(env, "http_proxy=http://ann:s3cret@"+d.address), git, "clone", "-q", web.URL+"/repo.git", got)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := run(t, env, git, "-C", got, "log", "--format=%s"); err != nil || strings.TrimSpace(out) != "through a proxy" {
		t.Errorf("%v\n%s", err, out)
	}
	if n := d.settles(`cleversocks_auth_total{method="password",outcome="failed"}`, "0"); n != "0" {
		t.Errorf("%s failed authentications", n)
	}
	d.find("of git's request", func(l line) bool { return l["msg"] == "connection" && l.text("user") == "ann" })
}

func TestChromiumWithEveryProxy(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	p := port(web.Listener.Addr().String())
	d := start(t, "")
	for _, scheme := range []string{"socks4", "http"} {
		shown, said, err := dump(t, nil, "http://127.0.0.1:"+p+"/", byProxy(scheme+"://"+d.address)...)
		if err != nil || !strings.Contains(shown, "hello from 127.0.0.1") {
			t.Errorf("%s: %v: shows %q\n%s", scheme, err, shown, said)
			continue
		}
		d.find("of its page over "+scheme, func(l line) bool {
			return l.text("protocol") == scheme && l.text("target") == "127.0.0.1:"+p
		})
	}
}
