package upstream

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cleversocks/conn/netaddr"
	"cleversocks/conn/wire"
	"cleversocks/listener/proxyproto"
)

func TestParseHop(t *testing.T) {
	good := map[string]string{
		"socks5://user:secret@10.0.0.1:1080": "socks5://10.0.0.1:1080",
		"https://10.0.0.2:443":               "https://10.0.0.2:443",
		"https://proxy.example":              "https://proxy.example:443",
		"socks5h://[2001:db8::1]":            "socks5h://[2001:db8::1]:1080",
		"socks5+tls://Proxy.Example.:1":      "socks5+tls://proxy.example:1",
		"socks4a+tls://id@h:1":               "socks4a+tls://h:1",
		"http+tls://h:1/":                    "http+tls://h:1",
		"http://u:p%40ss%3A@h":               "http://h:80",
		"socks4://192.0.2.1":                 "socks4://192.0.2.1:1080",
	}
	for raw, want := range good {
		h, err := ParseHop(raw)
		if err != nil || h.String() != want {
			t.Errorf("%s: %v, %v", raw, h, err)
		}
		for _, s := range []string{fmt.Sprintf("%v", h), fmt.Sprintf("%+v", h), fmt.Sprintf("%#v", []Hop{h}), h.LogValue().String()} {
			if strings.Contains(s, "secret") || strings.Contains(s, "p@ss") {
				t.Errorf("secret in %q", s)
			}
		}
	}
	bad := []string{
		"", "10.0.0.1:1080", "ftp://secret@h:1", "https+tls://secret@h", "socks5://", "socks5://u:secret@h:0",
		"socks5://u:secret@h:70000", "socks5://u:secret@h:1/path", "socks5://h:1?secret", "socks5://:secret@h:1",
		"socks4a://u:secret@h:1", "http://u%3Ax:secret@h:1", "socks5://u%00:secret@h:1", "socks5://u:secret%zz@h:1",
		"socks5://u:" + strings.Repeat("secret", 50) + "@h:1", "socks5://u:secret@a b:1",
	}
	for _, raw := range bad {
		if h, err := ParseHop(raw); err == nil {
			t.Errorf("%s is %v", raw, h)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("secret in %q", err)
		}
	}
}

func TestRoute(t *testing.T) {
	o := options(Upstream{Via: []string{"socks5://127.0.0.1:1"}})
	o.Forward = []Rule{
		{To: []string{"*.onion", "10.0.0.0/8", "exact.example", "2001:db8::/32", "192.0.2.9"}, Ports: []netaddr.PortRange{{First: 443, Last: 443}, {First: 8000, Last: 8099}}, Upstream: "up"},
		{To: []string{"*.Example.ORG"}, Users: []string{"alice"}, Upstream: "direct", Rewrite: "other.example:8443"},
		{To: []string{"blocked.example"}, Upstream: "reject"},
		{To: []string{"keep.example"}, Upstream: "up", Rewrite: "*:81"},
		{To: []string{"move.example"}, Upstream: "up", Rewrite: "[2001:db8::5]:0"},
		{Ports: []netaddr.PortRange{{First: 25, Last: 25}}, Upstream: "reject"},
	}
	r := compile(t, o)
	tests := map[string]struct {
		dest, user string
		action     Action
		rule, to   string
	}{
		"suffix":               {"a.b.onion:443", "", Via, "forward[0]", "a.b.onion:443"},
		"suffix is not itself": {"onion:443", "", Direct, "", "onion:443"},
		"suffix inside a name": {"onion.example:443", "", Direct, "", "onion.example:443"},
		"port in a range":      {"10.9.9.9:8099", "", Via, "forward[0]", "10.9.9.9:8099"},
		"port past it":         {"10.9.9.9:8100", "", Direct, "", "10.9.9.9:8100"},
		"address":              {"192.0.2.9:443", "", Via, "forward[0]", "192.0.2.9:443"},
		"address beside":       {"192.0.2.8:443", "", Direct, "", "192.0.2.8:443"},
		"IPv6":                 {"[2001:db8:1::]:443", "", Via, "forward[0]", "[2001:db8:1::]:443"},
		"exact":                {"EXACT.example.:443", "", Via, "forward[0]", "exact.example:443"},
		"below exact":          {"www.exact.example:443", "", Direct, "", "www.exact.example:443"},
		"user":                 {"www.example.org:80", "alice", Direct, "forward[1]", "other.example:8443"},
		"another user":         {"www.example.org:80", "bob", Direct, "", "www.example.org:80"},
		"reject":               {"blocked.example:1", "", Reject, "forward[2]", "blocked.example:1"},
		"host kept":            {"keep.example:1", "", Via, "forward[3]", "keep.example:81"},
		"port kept":            {"move.example:7", "", Via, "forward[4]", "[2001:db8::5]:7"},
		"any host":             {"10.9.9.9:25", "", Reject, "forward[5]", "10.9.9.9:25"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := r.Route(Query{Dest: addr(t, tt.dest), User: tt.user})
			if got.Action != tt.action || got.Rule != tt.rule || got.Dest.String() != tt.to {
				t.Errorf("%+v", got)
			}
			if (got.Upstream() == "up") != (tt.action == Via) {
				t.Errorf("upstream %q", got.Upstream())
			}
		})
	}
	// "wiki", of which a search list made a full name: the first rule that
	// names either, but not one for a name with dots that was stretched.
	full := wire.Addr{Name: "exact.example.corp.test", Port: 443, Absolute: true}
	if got := r.Route(Query{Dest: full, Asked: "exact.example"}); got.Action != Direct {
		t.Errorf("a stretched name: %+v", got)
	}
	short := options(Upstream{Via: []string{"socks5://127.0.0.1:1"}})
	short.Forward = []Rule{{To: []string{"wiki"}, Upstream: "reject"}, {To: []string{"*.corp.test"}, Upstream: "up"}}
	for asked, want := range map[string]Action{"wiki": Reject, "": Via} {
		dest := wire.Addr{Name: "wiki.corp.test", Port: 443, Absolute: true}
		if got := compile(t, short).Route(Query{Dest: dest, Asked: asked}); got.Action != want {
			t.Errorf("asked for as %q: %+v", asked, got)
		}
	}
	if got := (*Router)(nil).Route(Query{Dest: addr(t, "a.b:1")}); got.Action != Direct || got.Dest.Name != "a.b" {
		t.Errorf("no router: %+v", got)
	}
}

func TestCompileErrors(t *testing.T) {
	ok := Upstream{Via: []string{"socks5://127.0.0.1:1"}}
	tests := map[string]struct {
		change func(*Options)
		want   string
	}{
		"no name":           {func(o *Options) { o.Upstreams[0].Name = "" }, "upstream[0].name"},
		"reserved name":     {func(o *Options) { o.Upstreams[0].Name = "direct" }, "upstream[0].name"},
		"name twice":        {func(o *Options) { o.Upstreams = append(o.Upstreams, o.Upstreams[0]) }, "upstream[1].name"},
		"nothing":           {func(o *Options) { o.Upstreams[0].Via = nil }, "upstream[0].via"},
		"both":              {func(o *Options) { o.Upstreams[0].Members = o.Upstreams[0].Via }, "upstream[0].via"},
		"bad hop":           {func(o *Options) { o.Upstreams[0].Via = []string{"socks5://a:1", "x://b"} }, "upstream[0].via[1]"},
		"socks4 name":       {func(o *Options) { o.Upstreams[0].Via = []string{"socks4://a:1"} }, "upstream[0].via"},
		"socks4 to name":    {func(o *Options) { o.Upstreams[0].Via = []string{"socks4://a:1", "socks5://b:1"} }, "upstream[0].via[1]"},
		"strategy":          {func(o *Options) { o.Upstreams[0].Strategy = "best" }, "upstream[0].strategy"},
		"warm":              {func(o *Options) { o.Upstreams[0].Warm.Size = MaxWarm + 1 }, "upstream[0].pool.warm"},
		"too many hops":     {func(o *Options) { o.Upstreams[0].Via = make([]string, maxHops+1) }, "upstream[0].via"},
		"no file":           {func(o *Options) { o.Upstreams[0] = Upstream{Name: "up", Members: []string{"file:/nonexistent/x"}} }, "upstream[0].members[0]"},
		"rule's target":     {func(o *Options) { o.Forward[0].Upstream = "down" }, "forward[0].upstream"},
		"rule's name":       {func(o *Options) { o.Forward[0].To = []string{"a", "b c"} }, "forward[0].to[1]"},
		"rule's CIDR":       {func(o *Options) { o.Forward[0].To = []string{"10.0.0/8"} }, "forward[0].to[0]"},
		"rule's ports":      {func(o *Options) { o.Forward[0].Ports = []netaddr.PortRange{{First: 2, Last: 1}} }, "forward[0].ports[0]"},
		"rewrite":           {func(o *Options) { o.Forward[0].Rewrite = "nowhere" }, "forward[0].rewrite"},
		"header for nobody": {func(o *Options) { o.Upstreams[0].SendProxy, o.Upstreams[0].Warm.Size = proxyproto.SendV2, 1 }, "upstream[0].pool.warm"},
		"rule's header":     {func(o *Options) { o.Forward[0].SendProxy = proxyproto.SendV1 }, "forward[0].send_proxy"},
		"no dialer":         {func(o *Options) { o.Dial = nil }, "Dial"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o := options(ok)
			tt.change(&o)
			if _, err := Compile(o); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v does not name %s", err, tt.want)
			}
		})
	}
}

func TestParseForward(t *testing.T) {
	tests := map[string]struct {
		via  string
		rule Rule
	}{
		"example.org:443,proxy.example:1080,target.example:8443": {
			"socks5://proxy.example:1080",
			Rule{To: []string{"example.org"}, Ports: []netaddr.PortRange{{First: 443, Last: 443}}, Rewrite: "target.example:8443"},
		},
		"*:0,al:p,a@s:s@192.0.2.1:1,*:0":  {"socks5://al:p,a%40s%3As@192.0.2.1:1", Rule{Rewrite: "*:0"}},
		"0.0.0.0:0,[2001:db8::1]:1080,:0": {"socks5://[2001:db8::1]:1080", Rule{Rewrite: ":0"}},
		":80,2001:db8::1:1080,::1:0":      {"socks5://[2001:db8::1]:1080", Rule{Ports: []netaddr.PortRange{{First: 80, Last: 80}}, Rewrite: "::1:0"}},
	}
	for spec, want := range tests {
		up, rule, err := ParseForward(spec, "-f 1")
		want.rule.Upstream = "-f 1"
		if err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		if diff := cmp.Diff(Upstream{Name: "-f 1", Via: []string{want.via}}, up); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(want.rule, rule); diff != "" {
			t.Error(diff)
		}
		o := options(up)
		o.Upstreams[0].Name, o.Forward = up.Name, []Rule{rule}
		compile(t, o)
	}
	for _, bad := range []string{
		"", "a:1", "a:1,b:1", "a,b:1,c:1", "a:1,b:0,c:1", "a:1,b,c:1", "a:1,:1,c:1", "a:1,b:1,c", "a:1,b:1,c:65536",
		"a:x,b:1,c:1", "a:1,secret@b:1,c:1", "a:1,u:secret@b b:1,c:1", "a:1,b:1,c d:1", "a:1,:secret@b:1,c:1",
	} {
		if _, _, err := ParseForward(bad, "f"); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestMembersFromFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return "file:" + path
	}
	o := options(Upstream{Members: []string{
		"socks5://one:1",
		write("text", "\xef\xbb\xbf# ours\r\n\r\n socks5://u:p@two:1 \nhttp://three\n"),
		write("json", ` ["https://four", "socks5://v:p@two:1"]`),
	}})
	var got []string
	for _, m := range compile(t, o).Pools()[0].Status() {
		got = append(got, m.Member)
	}
	want := []string{"socks5://one:1", "socks5://two:1", "http://three:80", "https://four:443", "socks5://two:1 #2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for name, text := range map[string]string{
		"bad-line": "socks5://a\nnonsense\n", "bad-json": `["socks5://a"`, "bad-url": `["x://u:secret@b"]`,
		"empty": "# nothing\n", "large": strings.Repeat("#\n", maxMemberFile),
	} {
		_, err := Compile(options(Upstream{Members: []string{write(name, text)}}))
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
