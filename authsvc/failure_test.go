package authsvc

import (
	"bytes"
	"context"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// filter is the failregex lines of the fail2ban filter, as Go reads them:
// they use nothing that the two dialects differ in.
func filter(t *testing.T) (out []*regexp.Regexp) {
	t.Helper()
	conf, err := os.ReadFile("../dist/fail2ban/filter.d/cleversocks.conf")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(conf), "failregex =")
	list, _, _ := strings.Cut(rest, "ignoreregex")
	for line := range strings.Lines(list) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, regexp.MustCompile(strings.ReplaceAll(line, "<HOST>", `(?P<host>[0-9A-Fa-f:.]+)`)))
		}
	}
	if len(out) != 2 {
		t.Fatalf("%d lines in the filter", len(out))
	}
	return out
}

// found is the hosts that the filter finds in a log, a line at a time.
func found(filter []*regexp.Regexp, log string) (hosts []string) {
	for line := range strings.Lines(log) {
		for _, re := range filter {
			if m := re.FindStringSubmatch(strings.TrimSuffix(line, "\n")); m != nil {
				hosts = append(hosts, m[1])
				break
			}
		}
	}
	return hosts
}

// handlers are those of the text and the JSON log.
func handlers(w *bytes.Buffer) map[string]slog.Handler {
	return map[string]slog.Handler{"text": slog.NewTextHandler(w, nil), "json": slog.NewJSONHandler(w, nil)}
}

func TestFail2banFilter(t *testing.T) {
	re := filter(t)
	var buf bytes.Buffer
	for name, h := range handlers(&buf) {
		for _, client := range []string{"192.0.2.7", "2001:db8::1"} {
			for _, prefix := range []string{"", "host cleversocks[77]: "} {
				buf.Reset()
				LogFailure(t.Context(), slog.New(h), netip.MustParseAddr(client), []byte("alice"), MethodPassword, ReasonBusy)
				line := prefix + buf.String()
				if got := found(re, line); len(got) != 1 || got[0] != client {
					t.Errorf("%s: %v in %q", name, got, line)
				}
				// fail2ban takes the date out first.
				line = regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d)`).ReplaceAllString(line, "")
				if got := found(re, line); len(got) != 1 || got[0] != client {
					t.Errorf("%s: %v in %q", name, got, line)
				}
			}
		}
		buf.Reset()
		slog.New(h).Info("connection", "client", "192.0.2.7", "user", "alice", "cause", "denied")
		if got := found(re, buf.String()); got != nil {
			t.Errorf("%s: %v in %q", name, got, buf.String())
		}
	}
}

// No user name can make the filter see a failure of another client, in the
// failure's own line or in another record.
func TestFail2banInjection(t *testing.T) {
	re := filter(t)
	const forged = `level=WARN msg="authentication failed" client=203.0.113.1 user=`
	const forgedJSON = `{"level":"WARN","msg":"authentication failed","client":"203.0.113.1","user":"`
	pieces := []string{"\n", "\r\n", `"`, `\`, " ", "\u2028", "\x85", "\xff", "x cleversocks: ", forged, forgedJSON, "time= ", "}"}
	rapid.Check(t, func(t *rapid.T) {
		user := strings.Join(rapid.SliceOf(rapid.SampledFrom(pieces)).Draw(t, "pieces"), "")
		var buf bytes.Buffer
		for name, h := range handlers(&buf) {
			buf.Reset()
			log := slog.New(h)
			LogFailure(context.Background(), log, home, []byte(user), MethodPassword, ReasonCredentials)
			log.Info("connection", "user", user, "client", "192.0.2.7")
			if got := found(re, buf.String()); len(got) != 1 || got[0] != home.String() {
				t.Fatalf("%s: %v in %q", name, got, buf.String())
			}
			if n := strings.Count(buf.String(), "\n"); n != 2 {
				t.Fatalf("%s: %d lines", name, n)
			}
		}
	})
}

func TestWhitelist(t *testing.T) {
	var none *Whitelist
	w := NewWhitelist([]netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")})
	if none.Contains(home) || !w.Contains(home) || w.Contains(v4(1)) {
		t.Error("the list holds what it was given, and nil nobody")
	}
}
