package e2e

import (
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// namesAsked is a name server at 127.0.0.1:53 that has one address for some
// names, none for others, and remembers what it was asked.
type namesAsked struct {
	names map[string]string // by lower-case name with its dot
	mu    sync.Mutex
	asked []string
}

func (n *namesAsked) answer(w dns.ResponseWriter, q *dns.Msg) {
	name := strings.ToLower(q.Question[0].Name)
	n.mu.Lock()
	n.asked = append(n.asked, name)
	n.mu.Unlock()
	a := new(dns.Msg).SetReply(q)
	address, known := n.names[name]
	switch {
	case !known:
		a.Rcode = dns.RcodeNameError
	case q.Question[0].Qtype == dns.TypeA:
		a.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
			A:   net.ParseIP(address),
		}}
	}
	_ = w.WriteMsg(a)
}

// below are the names under a domain that were asked for.
func (n *namesAsked) below(domain string) (list []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range n.asked {
		if strings.HasSuffix(name, domain) {
			list = append(list, name)
		}
	}
	return list
}

const searchToken = "0123456789abcdef"

// systemNames starts a daemon whose resolv.conf and hosts file are the test's
// own, with a name server on port 53.
func systemNames(t *testing.T, server *namesAsked, resolvConf, hosts, toml string) *daemon {
	t.Helper()
	listenDNS(t, "127.0.0.1", server.answer)
	d, _ := withSystemFiles(t, resolvConf, hosts, toml)
	return d
}

// withSystemFiles starts a daemon with a resolv.conf and a hosts file of its own.
// inside makes a command that sees the same ones.
func withSystemFiles(t *testing.T, resolvConf, hosts, toml string) (d *daemon, inside func(args ...string) *exec.Cmd) {
	t.Helper()
	const mount = `mount --bind "$1" /etc/resolv.conf && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"`
	unshare := program(t, "unshare", "util-linux")
	files := []string{"-m", "sh", "-c", mount, "sh", writeFile(t, "resolv.conf", resolvConf), writeFile(t, "hosts", hosts)}
	inside = func(args ...string) *exec.Cmd { return exec.Command(unshare, append(slices.Clone(files), args...)...) }
	config := writeFile(t, "c.toml", toml+"\n[[listener]]\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \""+
		writeFile(t, "token", searchToken+"\n")+"\"\n")
	return startCommand(t, inside(binary, "--config", config, "--log-format", "json")), inside
}

// TestSearchListIsJudged: a rule about "*.corp.test" was got around by leaving
// the end of the name out, which "search corp.test" put back: "wiki" and "a.b"
// connected, by TCP and in datagrams, and forwarding rules were got around in
// the same way. The name that answers is judged, and what is denied not asked for.
// A wildcard of the search domain once caught "www.site.test." with its dot.
func TestSearchListIsJudged(t *testing.T) {
	echo, datagrams := echoServer(t, "127.0.0.1:0"), udpEcho(t, "127.0.0.1:0")
	server := &namesAsked{names: map[string]string{
		"wiki.corp.test.": "127.0.0.1", "a.b.corp.test.": "127.0.0.1", "db.lab.test.": "127.0.0.1",
		"www.site.test.open.test.": "127.0.0.1", "wiki.open.test.": "127.0.0.1", "web.open.test.": "127.0.0.1",
		"real.test.": "127.0.0.1", "short.open.test.": "127.0.0.1",
	}}
	d := systemNames(t, server, "nameserver 127.0.0.1\nsearch corp.test lab.test open.test\n", "127.0.0.1 localhost\n", `
[acl]
block_private = false
[[acl.rule]]
action = "deny"
to = ["*.corp.test", "short"]
[[forward]]
to = ["*.lab.test"]
upstream = "reject"
`)
	for _, tt := range []struct {
		name  string
		reply byte
	}{
		{"wiki.corp.test", notAllowed},
		{"wiki.corp.test.", notAllowed},
		{"a.b", notAllowed},
		{"db", notAllowed},
		{"short", notAllowed},
		{"web", succeeded},
		{"wiki", succeeded}, // the next name of the list, which may be reached
		{"real.test", succeeded},
		{"www.site.test", succeeded},
		{"www.site.test.", hostUnreachable},
		{"web.", hostUnreachable},
		{"localhost", succeeded},
	} {
		c, reply := connectName(t, d.address, tt.name, echo.Port())
		if reply != tt.reply {
			t.Errorf("%s: reply %d, want %d", tt.name, reply, tt.reply)
		}
		c.Close()
	}
	for url, code := range map[string]string{
		"http://wiki.corp.test:%d/": "403", "http://a.b:%d/": "403",
		"http://www.site.test.:%d/": "502", "http://web.:%d/": "502", // not the names of open.test
	} {
		url = fmt.Sprintf(url, echo.Port())
		if out := mustCurl(t, "-s", "-o", "/dev/null", "-w", "%{http_code}", "--proxy", "http://"+d.address, url); !strings.HasPrefix(out, code) {
			t.Errorf("%s: status %s, want %s", url, out, code)
		}
	}
	for name, want := range map[string][]string{
		"a.b":   {"tries a.b.corp.test: denied by acl.rules[0]", "result: deny"},
		"db":    {"tries db.lab.test: denied by forward[0]", "result: deny"},
		"short": {"name short, as it was asked for: denied by acl.rules[0]", "result: deny"},
		"web":   {"web.open.test is the name that answers", "result: allow"},
	} {
		stdout, stderr, _ := command(t, "", "explain", "--admin", d.admin, "--token-file", writeFile(t, "token", searchToken+"\n"), "--to", name+":80")
		for _, part := range want {
			if !strings.Contains(stdout, part) {
				t.Errorf("explain %s: no %q in\n%s%s", name, part, stdout, stderr)
			}
		}
	}
	a := mustAssociate(t, d.address)
	for _, name := range []string{"a.b", "db", "short", "wiki.corp.test", "www.site.test."} {
		a.send(append(header(0, name, datagrams.Port()), "not this"...))
	}
	a.echoes("web", datagrams, "by name")
	for _, domain := range []string{"corp.test.", "lab.test.", "short.open.test."} {
		if got := server.below(domain); len(got) > 0 {
			t.Errorf("denied, and asked for all the same: %v", got)
		}
	}
}
