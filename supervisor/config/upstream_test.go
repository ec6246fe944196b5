package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const routesFile = `[[upstream]]
name = "exit"
via = ["socks5://joe:s3cret@10.0.0.1:1080", "https://10.0.0.2"]
resolve = "local"
pool = { warm = 4 }
[[forward]]
to = ["*.onion", "10.0.0.0/8"]
ports = [443, "8000-8999"]
users = ["alice"]
upstream = "exit"
rewrite = "other.example:8443"
[[forward]]
upstream = "direct"
egress = { address = ["192.0.2.1", "2001:db8::/64"], mark = 7 }
`

func TestRoutes(t *testing.T) {
	c, err := load(t, routesFile, nil, []string{"-f", "a.test:80,user:pa,ss@b.test:1,:0", "-f", "*:0,c.test:2,d.test:3"})
	if err != nil {
		t.Fatal(err)
	}
	upstreams, rules := c.Routes()
	var got []string
	for _, u := range upstreams {
		got = append(got, fmt.Sprint(u.Name, u.Via, u.ResolveLocally, u.Warm.Size, u.Health.Interval))
	}
	for _, r := range rules {
		got = append(got, fmt.Sprint(r.To, r.Ports, r.Users, r.Upstream, r.Rewrite, r.Egress))
	}
	want := []string{
		"-f1[socks5://user:pa,ss@b.test:1]false030s", // ready for ParseHop
		"-f2[socks5://c.test:2]false030s",
		"exit[socks5://joe:s3cret@10.0.0.1:1080 https://10.0.0.2]true430s",
		"[a.test][80][]-f1:0{[]  0}",
		"[][][]-f2d.test:3{[]  0}",
		"[*.onion 10.0.0.0/8][443 8000-8999][alice]exitother.example:8443{[]  0}",
		"[][][]direct{[192.0.2.1/32 2001:db8::/64]  7}",
	}
	for i := range got { // Sprint puts no space between a string and what follows it
		got[i] = strings.Join(strings.Fields(got[i]), " ")
		want[i] = strings.Join(strings.Fields(want[i]), " ")
	}
	if d := cmp.Diff(squeezed(want), squeezed(got)); d != "" {
		t.Error(d)
	}
}

// TestRoutesLoadAgain: what check prints of them is a file with the same
// meaning. A masked password stays a mask, of which the loader warns; a revealed
// one is the password.
func TestRoutesLoadAgain(t *testing.T) {
	c, err := load(t, routesFile, nil, []string{"-f", "a.test:80,user:pass@b.test:1,:0"})
	if err != nil {
		t.Fatal(err)
	}
	var first, second strings.Builder
	if err = c.WriteTOML(&first, nil, Masked); err != nil {
		t.Fatal(err)
	}
	again, err := load(t, first.String(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if warnings := fmt.Sprint(again.Warnings); !strings.Contains(warnings, "upstream[0].via is a mask") {
		t.Errorf("no word of the mask: %s", warnings)
	}
	if err := again.WriteTOML(&second, nil, Masked); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(withoutOrigins(first.String()), withoutOrigins(second.String())); d != "" {
		t.Error(d)
	}
	var shown strings.Builder
	if err = c.WriteTOML(&shown, nil, Revealed); err != nil {
		t.Fatal(err)
	}
	if again, err = load(t, shown.String(), nil, nil); err != nil || reveal(again.Upstreams[0].Via)[0] != "socks5://user:pass@b.test:1" {
		t.Errorf("%v: %v", err, shown.String())
	}
}

// squeezed leaves blanks out.
func squeezed(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strings.ReplaceAll(s, " ", "")
	}
	return out
}

func TestRouteProblems(t *testing.T) {
	members := filepath.Join(t.TempDir(), "members")
	if err := os.WriteFile(members, []byte("# ours\nsocks5://a\nsocks5://joe:s3cret@b:x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := os.WriteFile(open, []byte("socks5://joe:s3cret@b\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// Its reader waited for a writer, and with it every reload to come.
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct{ file, err string }{
		"pipe":           {"[[upstream]]\nname='a'\nmembers=['file:" + pipe + "']", "is not a regular file"},
		"readable file":  {"[[upstream]]\nname='a'\nvia=['file:" + open + "']", "holds a password: every user may read it"},
		"no name":        {"[[upstream]]\nvia=['socks5://a']", "c.toml:1:3: upstream[0].name:"},
		"reserved":       {"[[upstream]]\nname='direct'\nvia=['socks5://a']", "c.toml:2:1: upstream[0].name:"},
		"taken":          {"[[upstream]]\nname='a'\nvia=['socks5://a']\n[[upstream]]\nname='a'\nvia=['socks5://a']", "c.toml:5:1: upstream[1].name:"},
		"both":           {"[[upstream]]\nname='a'\nvia=['socks5://a']\nmembers=['socks5://a']", "c.toml:3:1: upstream[0].via: exactly one"},
		"bad URL":        {"[[upstream]]\nname='a'\nvia=['socks5://a', 'gopher://joe:s3cret@a']", "c.toml:3:1: upstream[0].via: element 2: unknown scheme"},
		"no list":        {"[[upstream]]\nname='a'\nvia='socks5://joe:s3cret@a'", "c.toml:3:1: upstream[0].via: must be a list"},
		"not a URL":      {"[[upstream]]\nname='a'\nvia=['joe:s3cret@a:1']", "upstream[0].via: element 1:"},
		"a table":        {"[[upstream]]\nname='a'\nvia=[{x='s3cret'}]", "upstream[0].via: element 1: must be a proxy's URL"},
		"file":           {"[[upstream]]\nname='a'\nmembers=['socks5://c', 'file:" + members + "']", "c.toml:3:1: upstream[0].members[1]: " + members + ": line 3: not a URL"},
		"no file":        {"[[upstream]]\nname='a'\nmembers=['file:/nonexistent']", "c.toml:3:1: upstream[0].members[0]: open /nonexistent: no such file"},
		"socks4 names":   {"[[upstream]]\nname='a'\nvia=['socks4://192.0.2.1']", "c.toml:3:1: upstream[0].via: socks4 resolves no names"},
		"strategy":       {"[[upstream]]\nname='a'\nvia=['socks5://a']\nstrategy='best'", "c.toml:4:1: upstream[0].strategy: must be one of"},
		"warm":           {"[[upstream]]\nname='a'\nvia=['socks5://a']\npool={warm=65}", "c.toml:4:7: upstream[0].pool.warm: must be an integer, from 0 to 64"},
		"no upstream":    {"[[forward]]\nto=['a']", "c.toml:1:3: forward[0].upstream: is missing: name an upstream"},
		"unknown":        {"[[forward]]\nupstream='a'", "c.toml:2:1: forward[0].upstream: \"a\" is no upstream's name"},
		"bad target":     {"[[forward]]\nupstream='direct'\nto=['a', '10.0.0.0/33']", "c.toml:3:1: forward[0].to[1]: \"10.0.0.0/33\" is not a CIDR"},
		"bad port":       {"[[forward]]\nupstream='direct'\nports=[70000]", "c.toml:3:1: forward[0].ports: element 1: must be a port"},
		"bad rewrite":    {"[[forward]]\nupstream='direct'\nrewrite='a'", "c.toml:3:1: forward[0].rewrite: want host:port"},
		"shared egress":  {"[[upstream]]\nname='a'\nvia=['socks5://a']\n[[forward]]\nupstream='a'\negress={mark=1}", "c.toml:4:3: forward[0].egress:"},
		"long interface": {"[egress]\ninterface='abcdefghijklmnop'", "c.toml:2:1: egress.interface:"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, tt.file, nil, nil)
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %v, want %q", err, tt.err)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error shows the password: %v", err)
			}
		})
	}
	// Behind rules of -f the file's places stay right.
	_, err := load(t, "[[forward]]\nupstream='a'", nil, []string{"-f", ":0,b:1,:0"})
	if err == nil || !strings.Contains(err.Error(), "c.toml:2:1: forward[1].upstream") {
		t.Errorf("with -f: %v", err)
	}
}

// TestProxyURLsAreMasked prints them in every way there is.
func TestProxyURLsAreMasked(t *testing.T) {
	const secret = "s3:cr@t"
	c, err := load(t, "[[upstream]]\nname='a'\nvia=['socks5://joe:"+strings.NewReplacer(":", "%3A", "@", "%40").Replace(secret)+"@10.0.0.1']\n[[forward]]\nupstream='a'\n", nil,
		[]string{"-f", ":0,joe:" + secret + "@b:1,:0"})
	if err != nil {
		t.Fatal(err)
	}
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var toml strings.Builder
	if err := c.WriteTOML(&toml, nil, Masked); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"%v": fmt.Sprintf("%v", c), "%+v": fmt.Sprintf("%+v", c), "%#v": fmt.Sprintf("%#v", c.Upstreams),
		"json": string(asJSON), "toml": toml.String(), "warnings": fmt.Sprint(c.Warnings),
	} {
		if strings.Contains(text, "cr@t") || strings.Contains(text, "s3") {
			t.Errorf("%s shows the secret: %s", name, text)
		}
	}
	if !strings.Contains(toml.String(), `via = ["socks5://joe:********@10.0.0.1"]`) {
		t.Errorf("the mask hides too much: %s", toml.String())
	}
}
