package resolver

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func TestReadAnswer(t *testing.T) {
	chain := func(n int) []string {
		var out []string
		for i := range n {
			out = append(out, fmt.Sprintf("c%d.test. 60 IN CNAME c%d.test.", i, i+1))
		}
		return append(out, fmt.Sprintf("c%d.test. 60 IN A 192.0.2.1", n))
	}
	for _, tt := range []struct {
		name    string
		asked   string
		rcode   int
		records []string
		want    answer
		err     error
	}{
		{
			name: "address", asked: "a.test", records: []string{"A.TEST. 30 IN A 192.0.2.1"},
			want: answer{addrs: addrs("192.0.2.1"), exists: true, ttl: 30 * time.Second, hasTTL: true},
		},
		{
			name: "the least TTL counts", asked: "a.test", records: []string{"a.test. 30 IN A 192.0.2.1", "a.test. 20 IN A 192.0.2.2"},
			want: answer{addrs: addrs("192.0.2.1", "192.0.2.2"), exists: true, ttl: 20 * time.Second, hasTTL: true},
		},
		{
			name: "negative TTL counts as none", asked: "a.test", records: []string{"a.test. 4294967295 IN A 192.0.2.1"},
			want: answer{addrs: addrs("192.0.2.1"), exists: true, hasTTL: true},
		},
		{
			name: "aliases in any order", asked: "a.test", records: []string{"c.test. 60 IN A 192.0.2.1", "b.test. 5 IN CNAME c.test.", "a.test. 60 IN CNAME b.test."},
			want: answer{addrs: addrs("192.0.2.1"), exists: true, ttl: 5 * time.Second, hasTTL: true},
		},
		{
			name: "other names ignored", asked: "a.test", records: []string{"a.test. 30 IN A 192.0.2.1", "bank.test. 30 IN A 203.0.113.66"},
			want: answer{addrs: addrs("192.0.2.1"), exists: true, ttl: 30 * time.Second, hasTTL: true},
		},
		{
			name: "other types ignored", asked: "a.test", records: []string{"a.test. 30 IN AAAA 2001:db8::1", "a.test. 30 IN A 192.0.2.1"},
			want: answer{addrs: addrs("192.0.2.1"), exists: true, ttl: 30 * time.Second, hasTTL: true},
		},
		{
			name: "other classes ignored", asked: "a.test", records: []string{"a.test. 30 CH A 203.0.113.66", "a.test. 30 IN A 192.0.2.1"},
			want: answer{addrs: addrs("192.0.2.1"), exists: true, ttl: 30 * time.Second, hasTTL: true},
		},
		{name: "only other names", asked: "a.test", records: []string{"bank.test. 30 IN A 203.0.113.66"}, err: errPoisoned},
		{
			name: "no data", asked: "a.test", records: []string{"test. 60 IN SOA ns.test. root.test. 1 2 3 4 20"},
			want: answer{exists: true, ttl: 20 * time.Second, hasTTL: true},
		},
		{
			name: "no such name", asked: "a.test", rcode: dns.RcodeNameError, records: []string{"test. 10 IN SOA ns.test. root.test. 1 2 3 4 20"},
			want: answer{ttl: 10 * time.Second, hasTTL: true},
		},
		{name: "SOA of another zone", asked: "a.test", rcode: dns.RcodeNameError, records: []string{"example. 10 IN SOA ns.test. root.test. 1 2 3 4 20"}},
		{
			name: "alias to nothing", asked: "a.test", rcode: dns.RcodeNameError, records: []string{"a.test. 7 IN CNAME b.test.", "test. 60 IN SOA ns.test. root.test. 1 2 3 4 20"},
			want: answer{ttl: 7 * time.Second, hasTTL: true},
		},
		{name: "loop", asked: "a.test", records: []string{"a.test. 60 IN CNAME b.test.", "b.test. 60 IN CNAME a.test."}, err: errMalformed},
		{
			name: "long chain", asked: "c0.test", records: chain(maxChain - 1),
			want: answer{addrs: addrs("192.0.2.1"), exists: true, ttl: time.Minute, hasTTL: true},
		},
		{name: "chain too long", asked: "c0.test", records: chain(maxChain), err: errMalformed},
		{name: "failure", asked: "a.test", rcode: dns.RcodeServerFailure, err: errRefused},
		{name: "refusal", asked: "a.test", rcode: dns.RcodeRefused, err: errRefused},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := question{name: tt.asked, qtype: dns.TypeA}
			m := replyTo(t, q.query(hardening{}).msg, tt.records...)
			m.Rcode = tt.rcode
			got, err := readAnswer(m, q)
			if !errors.Is(err, tt.err) {
				t.Fatalf("error %v, want %v", err, tt.err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(answer{}), compareAddrs); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestManyAddresses takes no more than the bound.
func TestManyAddresses(t *testing.T) {
	q := question{name: "a.test", qtype: dns.TypeA}
	var records []string
	for i := range 200 {
		records = append(records, fmt.Sprintf("a.test. 60 IN A 192.0.2.%d", i+1))
	}
	got, err := readAnswer(replyTo(t, q.query(hardening{}).msg, records...), q)
	if err != nil || len(got.addrs) != maxAddrs {
		t.Errorf("%d addresses, %v; want %d", len(got.addrs), err, maxAddrs)
	}
}

// FuzzAnswer feeds bytes to the checks of an answer. What they let pass
// answers the question and keeps the bounds.
func FuzzAnswer(f *testing.F) {
	q := question{name: "a.test", qtype: dns.TypeA}
	asked := q.query(hardening{edns: true, mixed: true})
	query := asked.msg
	query.Id = 0x1234
	query.Question[0].Name = "a.TEST."
	seed := func(records ...string) {
		m := new(dns.Msg)
		m.SetReply(query)
		for _, text := range records {
			rr, err := dns.NewRR(text)
			if err != nil {
				f.Fatal(err)
			}
			m.Answer = append(m.Answer, rr)
		}
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	seed("a.test. 60 IN A 192.0.2.1", "a.test. 60 IN A 192.0.2.2")
	seed("a.test. 60 IN CNAME b.test.", "b.test. 60 IN A 192.0.2.1")
	seed("a.test. 60 IN CNAME b.test.", "b.test. 60 IN CNAME a.test.")
	seed("b.test. 60 IN A 192.0.2.1")
	seed()
	f.Add([]byte("\x12\x34\x81\x80\x00\x01\x00\xff\x00\x00\x00\x00\x01a\x04TEST\x00\x00\x01\x00\x01\xc0\x0c"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parseReply(raw, asked)
		if err != nil {
			return
		}
		if m.Id != query.Id || !m.Response {
			t.Fatalf("took %v for an answer", m)
		}
		a, err := readAnswer(m, q)
		if err != nil {
			return
		}
		if len(a.addrs) > maxAddrs || a.ttl < 0 {
			t.Fatalf("answer out of bounds: %+v", a)
		}
		for _, addr := range a.addrs {
			if !addr.Is4() {
				t.Fatalf("%s is no IPv4 address", addr)
			}
		}
	})
}

// FuzzSystemFiles feeds bytes to the readers of resolv.conf and hosts.
func FuzzSystemFiles(f *testing.F) {
	f.Add("nameserver 192.0.2.1\nsearch a.test b.test\noptions ndots:99 timeout:0 attempts:-1 rotate\n")
	f.Add("127.0.0.1 localhost # me\n::1 localhost\nfe80::1%eth0 x\nbad line\n")
	f.Fuzz(func(t *testing.T, text string) {
		if conf, err := parseResolvConf(strings.NewReader(text)); err == nil {
			if n := len(conf.nameservers); n < 1 || n > maxNameservers || len(conf.search) > maxSearch ||
				conf.ndots < 0 || conf.ndots > 15 || conf.attempts < 1 || conf.attempts > 5 {
				t.Fatalf("out of bounds: %+v", conf)
			}
			for _, name := range conf.candidates("x.test") {
				if len(name) > 253 {
					t.Fatalf("would ask for %q", name)
				}
			}
		}
		table, err := parseHosts(strings.NewReader(text))
		if err != nil {
			return
		}
		for name, list := range table {
			if name == "" || name != strings.ToLower(name) || len(list) > maxAddrs {
				t.Fatalf("%q: %v", name, list)
			}
		}
	})
}

func TestParseServers(t *testing.T) {
	for _, tt := range []struct {
		text string
		want spec
		bad  bool
	}{
		{text: "udp://192.0.2.1", want: spec{transport: "udp", addrs: addrs("192.0.2.1"), port: 53, verify: "192.0.2.1"}},
		{text: "udp://[2001:db8::1]:5353", want: spec{transport: "udp", addrs: addrs("2001:db8::1"), port: 5353, verify: "2001:db8::1"}},
		{text: "tcp://192.0.2.1", want: spec{transport: "tcp", addrs: addrs("192.0.2.1"), port: 53, verify: "192.0.2.1"}},
		{text: "tls://192.0.2.1#DNS.example", want: spec{transport: "tls", addrs: addrs("192.0.2.1"), port: 853, verify: "dns.example"}},
		{text: "tls://192.0.2.1", want: spec{transport: "tls", addrs: addrs("192.0.2.1"), port: 853, verify: "192.0.2.1"}},
		{text: "tls://dns.example#192.0.2.1,2001:db8::1", want: spec{
			transport: "tls", host: "dns.example", addrs: addrs("192.0.2.1", "2001:db8::1"), port: 853, verify: "dns.example",
		}},
		{text: "https://dns.example/dns-query", want: spec{
			transport: "https", host: "dns.example", port: 443, verify: "dns.example", url: "https://dns.example/dns-query",
		}},
		{text: "https://dns.example:8443/q#192.0.2.1", want: spec{
			transport: "https", host: "dns.example", addrs: addrs("192.0.2.1"), port: 8443, verify: "dns.example", url: "https://dns.example:8443/q",
		}},
		{text: "", bad: true},
		{text: "192.0.2.1", bad: true},
		{text: "udp://dns.example", bad: true},
		{text: "udp://192.0.2.1:0", bad: true},
		{text: "udp://192.0.2.1:65536", bad: true},
		{text: "udp://192.0.2.1#x", bad: true},
		{text: "udp://user@192.0.2.1", bad: true},
		{text: "tls://192.0.2.1/path", bad: true},
		{text: "tls://dns.example#other.example", bad: true},
		{text: "https://192.0.2.1/q#192.0.2.2", bad: true},
		{text: "https://dns.example/q?x=y", bad: true},
		{text: "quic://192.0.2.1", bad: true},
		{text: "tls://", bad: true},
	} {
		got, err := parseServers([]string{System, tt.text})
		if (err != nil) != tt.bad {
			t.Errorf("%q: %v", tt.text, err)
		}
		if err != nil {
			if !strings.Contains(err.Error(), "servers[1]") || !strings.Contains(err.Error(), "accepted") {
				t.Errorf("error %q names neither entry nor choices", err)
			}
			continue
		}
		tt.want.text = tt.text
		if tt.want.transport != "https" {
			got[1].url = ""
		}
		if diff := cmp.Diff(tt.want, got[1], cmp.AllowUnexported(spec{}), compareAddrs); diff != "" {
			t.Errorf("%q: %s", tt.text, diff)
		}
	}
}

func TestParseResolvConf(t *testing.T) {
	conf, err := parseResolvConf(strings.NewReader(`# comment
; comment
nameserver 192.0.2.1
nameserver fe80::1%eth0
nameserver not-an-address
domain first.test
search Corp.Test. lab.test
options ndots:2 timeout:3 attempts:4 rotate use-vc edns0 trust-ad
`))
	if err != nil {
		t.Fatal(err)
	}
	want := resolvConf{
		nameservers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53"), netip.MustParseAddrPort("[fe80::1%eth0]:53")},
		search:      []string{"corp.test", "lab.test"}, ndots: 2, timeout: 3 * time.Second, attempts: 4, rotate: true, useTCP: true,
	}
	if diff := cmp.Diff(want, conf, cmp.AllowUnexported(resolvConf{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	for name, want := range map[string][]string{
		"a":     {"a.corp.test", "a.lab.test", "a"},
		"a.b":   {"a.b.corp.test", "a.b.lab.test", "a.b"},
		"a.b.c": {"a.b.c", "a.b.c.corp.test", "a.b.c.lab.test"},
	} {
		if diff := cmp.Diff(want, conf.candidates(name)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// An editor on Windows puts a byte order mark in front: the first line of a
// resolv.conf or hosts file was then passed over without a word.
func TestSystemFilesWithAByteOrderMark(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte("\xef\xbb\xbf"+text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("nameserver 192.0.2.53\n")
	conf, err := readResolvConf(path)
	if err != nil || len(conf.nameservers) != 1 || conf.nameservers[0].String() != "192.0.2.53:53" {
		t.Errorf("resolv.conf: %v, %v", conf.nameservers, err)
	}
	write("192.0.2.80 www.test\n")
	table, err := readHosts(path)
	if err != nil || len(table["www.test"]) != 1 {
		t.Errorf("hosts: %v, %v", table, err)
	}
}
