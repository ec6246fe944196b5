package metrics

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"
)

func written(m *Registry) string {
	var out bytes.Buffer
	m.Process.sample()
	m.WritePrometheus(&out)
	return out.String()
}

// full is a registry with series of every family.
func full() *Registry {
	m := New()
	m.Users.Of("alice").BytesIn.Inc()
	m.Listener.Accepted("127.0.0.1:1080")
	m.Upstream.Member("exit", "socks5://192.0.2.1:1080")
	m.ACL.Decisions([]string{"default"})
	m.Daemon.BuildInfo("1", "c", "go1")
	m.Daemon.LogLost(func() uint64 { return 0 })
	m.Daemon.Restarts("resolver")
	m.Listener.Expires("office", "crl", time.Unix(1, 0))
	m.Daemon.Predecessors(func() int { return 0 })
	return m
}

// Every family of ours has its HELP and TYPE, before its series, and the table
// has none that is never exposed.
func TestEveryFamilyIsInTheTable(t *testing.T) {
	text := written(full())
	typed := ""
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
			typed, _, _ = strings.Cut(rest, " ")
			continue
		}
		if name := familyOf([]byte(line)); !strings.HasPrefix(line, "# HELP ") && name != typed {
			t.Errorf("%s is not in metrics.Table", name)
		}
	}
	for _, f := range Table {
		if strings.HasPrefix(f.Name, "cleversocks_") && !strings.Contains(text, "# TYPE "+f.Name+" ") {
			t.Errorf("%s is in metrics.Table and has no series", f.Name)
		}
		if !strings.HasSuffix(f.Help, ".") || strings.Contains(f.Help, "\n") {
			t.Errorf("%s: HELP is one sentence", f.Name)
		}
	}
	for _, name := range []string{"process_open_fds", "process_max_fds", "process_resident_memory_bytes", "go_goroutines"} {
		if !regexp.MustCompile(`(?m)^` + name + ` \d`).MatchString(text) {
			t.Errorf("no %s", name)
		}
	}
}

// Odd bytes became one underscore: users a\x01 and a\x02 shared their counts.
func TestOddNamesStayApart(t *testing.T) {
	seen := make(map[string]string)
	for _, name := range []string{
		"alice", "é", "", "a\x01", "a\x02", "a\xff", "a\xfe", "a\uFFFD", "a\uFFFDff", "a\"b", `a\b`, "a\nb", "a_b", "CORP\\alice", "\u202e", "a\u009bb", "{}", "a,b=\"c\"",
	} {
		s := series("x", "user", name)
		if other, twice := seen[s]; twice {
			t.Errorf("%q and %q are both %s", name, other, s)
		}
		seen[s] = name
		m := New()
		m.Users.Of(name).BytesIn.Inc() // panics on a name that is no series
		if !strings.Contains(written(m), series("cleversocks_user_bytes_total", "direction", "in", "user", name)+" 1\n") {
			t.Errorf("no series for %q", name)
		}
	}
	if got := series("x", "user", "é\"b"); got != `x{user="é\"b"}` {
		t.Errorf("%s", got)
	}
}

// TestSeriesEnd: the series of a user or rule that a reload removed stayed for
// ever, and 200 users that were gone left none of the labels for new ones.
func TestSeriesEnd(t *testing.T) {
	m := New()
	gone := m.Users.Of("gone")
	gone.Active.Add(1)
	m.Users.Of("stays").BytesIn.Add(7)
	m.ACL.Decisions([]string{"acl.rule[0]", "acl.rule[1]"})
	m.Users.Retain(func(name string) bool { return name == "stays" })
	m.ACL.Retain([]string{"acl.rule[0]"})
	text := written(m)
	if strings.Contains(text, "acl.rule[1]") || !strings.Contains(text, "acl.rule[0]") {
		t.Error("the series of rules are not those in force")
	}
	if !strings.Contains(text, `user="gone"`) {
		t.Error("the series of a user who is still connected ended")
	}
	gone.Active.Add(-1)
	text = written(m)
	if strings.Contains(text, `user="gone"`) || !strings.Contains(text, `cleversocks_user_bytes_total{direction="in",user="stays"} 7`) {
		t.Errorf("after the last connection:\n%s", text)
	}
	if m.Users.Of("gone") == gone {
		t.Error("the name came back with the old handles")
	}
	for i := range 2 * MaxUserSeries {
		m.Users.Of(string(rune('一' + i)))
	}
	m.Users.Retain(func(string) bool { return false })
	m.Users.Of("new").BytesIn.Inc()
	if !strings.Contains(written(m), `user="new"`) {
		t.Error("no label for a new user")
	}
}

// Counters of a listener and its services end with it.
func TestForget(t *testing.T) {
	m := full()
	m.Listener.Forget("127.0.0.1:1080")
	m.Daemon.Forget("resolver")
	if text := written(m); strings.Contains(text, `listener="127`) || strings.Contains(text, `service="resolver"`) {
		t.Error("the series are still there")
	}
}
