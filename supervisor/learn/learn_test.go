package learn

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cleversocks/supervisor/config"
)

func seenOf(t *testing.T, lines ...string) *Seen {
	t.Helper()
	var s Seen
	if err := s.ReadLog(strings.NewReader(strings.Join(lines, "\n")), Filter{}); err != nil {
		t.Fatal(err)
	}
	return &s
}

func would(user, target, more string) string {
	return fmt.Sprintf(`{"time":"2026-11-29T10:00:00Z","msg":"would be denied","client":"192.0.2.7:1234","user":%q,"command":"connect","target":%q%s}`, user, target, more)
}

// What is printed is what a person would write: users with the same wishes
// together, ports together, and an address where a name would lift no block.
func TestRules(t *testing.T) {
	s := seenOf(t,
		would("alice", "a.example:443", `,"id":"1","address":"invalid IP","rule":"default"`),
		would("alice", "a.example:443", `,"id":"1","address":"198.51.100.1","rule":"default"`), // the same connection
		would("alice", "b.example:443", `,"id":"2","rule":"default"`),
		would("bob", "a.example:443", ``), would("bob", "b.example:443", ``),
		would("bob", "a.example:443", ``),
		would("alice", "wiki.corp.example:80", `,"address":"10.1.2.3","rule":"block_private"`),
		would("", "[2001:db8::1]:22", ``),
		would("alice", "127.0.0.1:1080", `,"rule":"own_listener"`),
		`time=2026-11-29T11:00:00Z level=INFO msg=connection id=x client=192.0.2.9:5 user="a b" command=udp target=dns.example:53 rule=acl.rules[0] cause=denied`,
		`Nov 29 host cleversocks[7]: time=2026-11-29T11:00:00Z level=INFO msg="would be denied" client=192.0.2.9:5 user=carol command=connect target=c.example:1`,
		`{"msg":"connection","cause":"client_closed","target":"allowed.example:80","command":"connect"}`,
		"not a line of ours", "",
		would("eve", "nonsense", ""), strings.Repeat("x", 3*maxLine),
	)
	if s.Total != 9 || s.Own != 1 || s.Skipped != 2 {
		t.Errorf("%d requests, %d own, %d skipped", s.Total, s.Own, s.Skipped)
	}
	var b strings.Builder
	if err := WriteTOML(&b, s, s.Rules(Options{Groups: map[string][]string{"staff": {"bob", "alice"}, "all": {"alice", "bob", "carol"}}})); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"groups = [\"staff\"]\nto = [\n  \"a.example\",  # 3\n  \"b.example\",  # 2\n]\nports = [443]\ncommands = [\"connect\"]\n",
		"\"10.1.2.3\",  # 1, asked for as wiki.corp.example: block_private yields to an address alone",
		"from = [\"192.0.2.7\"]\nto = [\n  \"2001:db8::1\",  # 1\n]\nports = [22]",
		"users = [\"a b\"]\nto = [\n  \"dns.example\",  # 1\n]\nports = [53]\ncommands = [\"udp\"]",
		"users = [\"carol\"]", "# 1 were to the proxy itself",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if n := strings.Count(b.String(), "[[acl.rule]]"); n != 5 {
		t.Errorf("%d rules in\n%s", n, b.String())
	}
}

func TestOptions(t *testing.T) {
	s := seenOf(t, would("a", "x.example:80", ""), would("a", "x.example:80", ""), would("b", "x.example:81", ""), would("", "x.example:82", ""))
	if rules := s.Rules(Options{MinCount: 2}); len(rules) != 1 || rules[0].Count != 2 {
		t.Errorf("%+v", rules)
	}
	rules := s.Rules(Options{Anyone: true})
	if len(rules) != 1 || len(rules[0].Users)+len(rules[0].From) != 0 || portList(rules[0].Ports) != `"80-82"` {
		t.Errorf("%+v", rules)
	}
	var filtered Seen
	if err := filtered.ReadLog(strings.NewReader(would("a", "x.example:80", "")+"\n"+would("b", "x.example:80", "")), Filter{User: "a", Since: time.Date(2026, 11, 29, 0, 0, 0, 0, time.UTC)}); err != nil || filtered.Total != 1 {
		t.Errorf("%v, %+v", err, filtered)
	}
}

// The rules allow each request that was seen and no other, whatever was seen.
func TestRulesAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s Seen
		seen := make(map[want]bool)
		for range rapid.IntRange(1, 40).Draw(t, "requests") {
			w := want{
				user: rapid.SampledFrom([]string{"", "alice", "bob", "eve"}).Draw(t, "user"), dest: rapid.SampledFrom([]string{"a.example", "b.example", "192.0.2.1"}).Draw(t, "dest"),
				port: rapid.SampledFrom([]uint16{22, 80, 81, 82}).Draw(t, "port"), command: rapid.SampledFrom([]string{"connect", "udp"}).Draw(t, "command"),
			}
			if w.user == "" {
				w.client = netip.AddrFrom4([4]byte{192, 0, 2, byte(rapid.IntRange(1, 2).Draw(t, "client"))})
			}
			seen[w] = true
			if err := s.Add(Request{User: w.user, Client: w.client, Command: w.command, Target: fmt.Sprintf("%s:%d", w.dest, w.port)}); err != nil {
				t.Fatal(err)
			}
		}
		allowed := make(map[want]bool)
		for _, r := range s.Rules(Options{}) {
			people := []want{}
			for _, u := range r.Users {
				people = append(people, want{user: u})
			}
			for _, from := range r.From {
				people = append(people, want{client: from})
			}
			for _, w := range people {
				for _, d := range r.To {
					for _, port := range r.Ports {
						for _, command := range r.Commands {
							w.dest, w.port, w.command = d.Host, port, command
							if allowed[w] {
								t.Fatalf("%+v is allowed twice", w)
							}
							allowed[w] = true
						}
					}
				}
			}
		}
		if len(allowed) != len(seen) {
			t.Fatalf("%d are allowed, %d were seen", len(allowed), len(seen))
		}
		for w := range seen {
			if !allowed[w] {
				t.Fatalf("%+v is not allowed", w)
			}
		}
	})
}

// Names are bytes that strangers chose: what is printed is still TOML.
func TestWrittenRulesLoad(t *testing.T) {
	s := seenOf(t, would("a\"\\\n]\n[log]\nlevel", "x.example:80", ""), would("é", "y.example:80", ""))
	var b strings.Builder
	if err := WriteTOML(&b, s, s.Rules(Options{})); err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/rules.toml"
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.NewLoader(config.Sources{File: path}).Load(t.Context())
	if err != nil {
		t.Fatalf("%v in\n%s", err, b.String())
	}
	var users []string
	for _, r := range cfg.ACL.Rules {
		users = append(users, r.Users...)
	}
	slices.Sort(users)
	if !slices.Equal(users, []string{"a\"\\\n]\n[log]\nlevel", "é"}) {
		t.Errorf("%q", users)
	}
}
