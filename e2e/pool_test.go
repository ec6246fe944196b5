package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const toFarm = "[[forward]]\nupstream = \"farm\"\n"

// memberUp is a member's gauge.
func (d *daemon) memberUp(member string) string {
	d.t.Helper()
	return d.metric(`cleversocks_upstream_up{upstream="farm",member="socks5://` + member + `"}`)
}

// TestPoolMemberDies: a member that is killed under load is out at once, no
// request fails, and it is back when it is; with all of them dead, one is
// tried all the same.
func TestPoolMemberDies(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	one, killOne := microsocks(t)
	two, killTwo := microsocks(t)
	d := start(t, fmt.Sprintf("[[upstream]]\nname = \"farm\"\nmembers = [\"socks5://%s\", \"socks5://%s\"]\n"+
		"health = { interval = \"1s\", timeout = \"1s\", failures = 2 }\n%s", one, two, toFarm))
	seen := make(map[string]bool)
	for range 4 {
		mustFetch(t, d, web.URL+"/")
	}
	for _, member := range []string{one, two} {
		path := "farm/socks5://" + member
		d.find("through "+path, func(l line) bool { return l.text("upstream") == path })
		seen[path] = true
	}
	killOne()
	for range 6 {
		mustFetch(t, d, web.URL+"/")
	}
	// The line's error called the upstream "", and was another field than elsewhere.
	if said := d.waitLine("msg", "upstream is down"); said.text("upstream") != "farm" || !strings.HasPrefix(said.text("err"), "socks5://"+one+": dial: ") {
		t.Errorf("%v", said)
	}
	if up := d.memberUp(one); up != "0" {
		t.Errorf("the dead member's up is %s", up)
	}
	if up := d.memberUp(two); up != "1" {
		t.Errorf("the other member's up is %s", up)
	}
	runPeer(t, one, program(t, "microsocks", "microsocks"), "-i", "127.0.0.1", "-p", port(one))
	d.waitLine("msg", "upstream is up")

	killTwo()
	eventually(t, "the second is out", func() bool { return d.memberUp(two) == "0" })
	mustFetch(t, d, web.URL+"/")
	if failures := d.metric(`cleversocks_upstream_failures_total{upstream="farm",member="socks5://` + two + `"}`); failures == "0" || failures == "" {
		t.Errorf("failures of the dead member: %q", failures)
	}
}

// TestAllMembersDown: the request is tried, fails with a reply, and succeeds
// again as soon as a member is back, probed or not.
func TestAllMembersDown(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	one, kill := microsocks(t)
	d := start(t, fmt.Sprintf("[[upstream]]\nname = \"farm\"\nmembers = [\"socks5://%s\"]\n"+
		"health = { interval = \"1h\", timeout = \"1s\", failures = 1 }\n%s", one, toFarm))
	mustFetch(t, d, web.URL+"/")
	kill()
	to := netip.MustParseAddrPort(strings.TrimPrefix(web.URL, "http://"))
	if _, reply := connect(t, d.address, to); reply != 1 {
		t.Errorf("reply %d, want a general failure", reply)
	}
	eventually(t, "it is out", func() bool { return d.memberUp(one) == "0" })
	runPeer(t, one, program(t, "microsocks", "microsocks"), "-i", "127.0.0.1", "-p", port(one))
	mustFetch(t, d, web.URL+"/")
	if up := d.memberUp(one); up != "1" {
		t.Errorf("up is %s after a request that worked", up)
	}
}

// TestReloadOfPools: a pool that stays keeps its warm connections, one that
// changes loses no tunnel, and a file of members is read anew.
func TestReloadOfPools(t *testing.T) {
	echo := echoServer(t, "127.0.0.1:0")
	one, _ := microsocks(t)
	two, _ := microsocks(t)
	members := writeFile(t, "members.txt", "socks5://"+one+"\n")
	text := func(more string) string {
		return "[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\n" +
			"[[upstream]]\nname = \"farm\"\nmembers = [\"file:" + members + "\"]\npool = { warm = 2 }\n" + toFarm +
			"[[upstream]]\nname = \"kept\"\nvia = [\"socks5://" + two + "\"]\npool = { warm = 3, max_idle = \"1h\" }\nhealth = { interval = \"1h\" }\n" + more
	}
	config := writeFile(t, "c.toml", text(""))
	d := startProgram(t, "--config", config, "--log-format", "json")
	warm := func(upstream, member string) string {
		return d.metric(fmt.Sprintf(`cleversocks_upstream_warm{upstream=%q,member="socks5://%s"}`, upstream, member))
	}
	eventually(t, "warm connections", func() bool { return warm("farm", one) == "2" && warm("kept", two) == "3" })
	handshakes := `cleversocks_upstream_handshake_duration_seconds_count{upstream="kept",member="socks5://` + two + `"}`
	before := d.metric(handshakes)
	c, reply := connect(t, d.address, echo)
	if reply != succeeded {
		t.Fatalf("reply %d", reply)
	}
	echoes(t, c, "before")

	rewrite(t, members, "[\"socks5://"+two+"\"]")
	d.signal(syscall.SIGHUP)
	d.waitLine("generation", "2")
	echoes(t, c, "its member is gone")
	eventually(t, "the new member is warm", func() bool { return warm("farm", two) == "2" })
	if got := warm("farm", one); got != "" {
		t.Errorf("the removed member still has metrics: %s", got)
	}
	if warm("kept", two) != "3" || d.metric(handshakes) != before {
		t.Errorf("the unchanged pool: %s warm, %s handshakes, before %s", warm("kept", two), d.metric(handshakes), before)
	}

	rewrite(t, members, "socks5://"+two+"\ngopher://x\n")
	d.signal(syscall.SIGHUP)
	failed := d.waitMessage("reload failed")
	if !strings.Contains(failed.text("err"), "line 2") || !strings.Contains(failed.text("err"), "c.toml:7:1") {
		t.Errorf("the error does not name the line: %s", failed.text("err"))
	}
	if _, reply := connect(t, d.address, echo); reply != succeeded {
		t.Errorf("after a bad reload: reply %d", reply)
	}
}

// TestTLSInFrontOfAProxy: haproxy takes TLS off in front of microsocks; the
// daemon reaches it over TLS, checks its certificate, and moves the bytes.
func TestTLSInFrontOfAProxy(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	backend, _ := microsocks(t, "joe", "s3cret")
	dir := t.TempDir()
	certificate(t, dir, "localhost")
	p := freePort(t)
	conf := filepath.Join(dir, "haproxy.cfg")
	rewrite(t, conf, fmt.Sprintf(`defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
listen socks
  bind 127.0.0.1:%s ssl crt %s/both.pem
  server one %s
`, p, dir, backend))
	runPeer(t, "127.0.0.1:"+p, program(t, "haproxy", "haproxy"), "-db", "-f", conf)
	t.Setenv("SSL_CERT_FILE", filepath.Join(dir, "cert.pem"))
	via := "[[upstream]]\nname = \"exit\"\nvia = [\"socks5+tls://joe:s3cret@%s:" + p + "\"]\npool = { warm = %d }\n[[forward]]\nupstream = \"exit\"\n"
	for _, warm := range []int{0, 2} {
		d := start(t, fmt.Sprintf(via, "localhost", warm))
		mustFetch(t, d, web.URL+"/")
		if got := sum(strings.NewReader(mustCurl(t, "--proxy", "socks5h://"+d.address, web.URL+"/big"))); got != bigSum() {
			t.Errorf("warm %d: %s", warm, got)
		}
	}
	// By its address, which the certificate does not hold.
	d := start(t, fmt.Sprintf(via, "127.0.0.1", 0))
	if out, err := curl(t, "--proxy", "socks5h://"+d.address, web.URL+"/"); err == nil {
		t.Errorf("got %q through a proxy with another's certificate", out)
	}
	got := d.record(strings.TrimPrefix(web.URL, "http://"))
	if !strings.Contains(got.text("err"), "tls") || got.text("reply") != "general_failure" {
		t.Errorf("record %v", got)
	}
}

// certificate writes a self-signed certificate for a name into a directory:
// cert.pem, key.pem, and both.pem as haproxy wants it.
func certificate(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	for file, text := range map[string][]byte{"cert.pem": cert, "key.pem": private, "both.pem": slices.Concat(cert, private)} {
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// slowLink relays connections to a target over a link with a round trip of so
// long. A new connection pays one for its own handshake, too.
func slowLink(t *testing.T, target string, roundTrip time.Duration) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		tasks.Wait()
	})
	tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() {
				defer c.Close()
				server, err := net.Dial("tcp", target)
				if err != nil {
					return
				}
				defer server.Close()
				var ways sync.WaitGroup
				opened := time.Now().Add(roundTrip)
				ways.Go(func() { delay(server, c, roundTrip/2, opened) })
				ways.Go(func() { delay(c, server, roundTrip/2, time.Time{}) })
				ways.Wait()
			})
		}
	})
	return l.Addr().String()
}

// delay moves bytes, each so long after it came and none before the link is
// open. Several may be on their way at a time.
func delay(to, from net.Conn, by time.Duration, opened time.Time) {
	type piece struct {
		bytes []byte
		due   time.Time
	}
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		for {
			b := make([]byte, 16<<10)
			n, err := from.Read(b)
			if n > 0 {
				due := time.Now()
				if due.Before(opened) {
					due = opened
				}
				pieces <- piece{b[:n], due.Add(by)}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		timer := time.NewTimer(time.Until(p.due))
		<-timer.C
		if _, err := to.Write(p.bytes); err != nil {
			from.Close()
			for range pieces { // until its reader has ended
				continue
			}
			return
		}
	}
	if tcp, ok := to.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
}

// TestTimeToFirstByte reports what warm connections save over a link of 50 ms.
func TestTimeToFirstByte(t *testing.T) {
	web := origin(t, "127.0.0.1:0")
	proxy, _ := microsocks(t, "joe", "s3cret")
	dir := t.TempDir()
	certificate(t, dir, "localhost")
	front := freePort(t)
	conf := filepath.Join(dir, "haproxy.cfg")
	rewrite(t, conf, fmt.Sprintf("defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n"+
		"listen socks\n  bind 127.0.0.1:%s ssl crt %s/both.pem\n  server one %s\n", front, dir, proxy))
	runPeer(t, "127.0.0.1:"+front, program(t, "haproxy", "haproxy"), "-db", "-f", conf)
	t.Setenv("SSL_CERT_FILE", filepath.Join(dir, "cert.pem"))
	for _, kind := range []struct{ name, scheme, target string }{
		{"SOCKS5 with a password", "socks5", proxy},
		{"the same over TLS", "socks5+tls", "127.0.0.1:" + front},
	} {
		link := slowLink(t, kind.target, 50*time.Millisecond)
		figures := make(map[int]time.Duration)
		for _, warm := range []int{0, 4} {
			d := start(t, fmt.Sprintf("[[upstream]]\nname = \"farm\"\nmembers = [\"%s://joe:s3cret@localhost:%s\"]\n"+
				"pool = { warm = %d }\n%s", kind.scheme, port(link), warm, toFarm))
			series := fmt.Sprintf(`cleversocks_upstream_warm{upstream="farm",member="%s://localhost:%s"}`, kind.scheme, port(link))
			figures[warm] = time.Hour
			for range 5 {
				eventually(t, "the pool is warm", func() bool { return d.metric(series) == strconv.Itoa(warm) })
				out := mustCurl(t, "--proxy", "socks5h://"+d.address, "--output", "/dev/null", "--write-out", "%{time_starttransfer}", web.URL+"/")
				seconds, err := strconv.ParseFloat(out, 64)
				if err != nil {
					t.Fatal(err)
				}
				figures[warm] = min(figures[warm], time.Duration(seconds*float64(time.Second))) // a busy machine adds what it likes
			}
		}
		t.Logf("time to first byte over a link of 50 ms, %s: %v cold, %v with warm connections",
			kind.name, figures[0].Round(time.Millisecond), figures[4].Round(time.Millisecond))
		if figures[4] >= figures[0] {
			t.Errorf("%s: warm connections save nothing", kind.name)
		}
	}
}
