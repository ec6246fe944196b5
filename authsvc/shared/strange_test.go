package shared

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/authsvc"
	"cleversocks/e2e/written"
	"cleversocks/metrics"
)

// Another program had written under the name of one user: each call about her counted
// as an outage, for all users, and those whose beats were sent together with hers lost
// their leases. Nobody was told why.
func TestStrangeKey(t *testing.T) {
	server, url := fake(t)
	var log written.Text
	all := joinAll(t, url, 2, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	for _, key := range []string{"cs:{u:alice}:conns", "cs:{s:198.51.100.1}:ban"} {
		if err := server.Set(key, "x"); err != nil {
			t.Fatal(err)
		}
	}
	server.HSet("cs:{u:bob}:q", "x", "x")
	bob := &authsvc.Account{Name: "bob", QuotaBytes: 1000, QuotaPeriod: time.Hour}
	carol := &authsvc.Account{Name: "carol", QuotaBytes: 1000, QuotaPeriod: time.Hour}
	all[0].quotas.Of(bob).Moved(300)
	all[0].quotas.Of(carol).Moved(300)
	all[0].throttle.Impose(netip.MustParseAddr("198.51.100.1"), time.Minute)
	for _, r := range all {
		for range 8 {
			r.enter("alice", 10)
			r.enter("eve", 10)
		}
	}
	key := func() string { return server.HGet("cs:{u:eve}:conns", all[0].ID()) }
	first := key()
	eventually(t, "the leases of others are renewed", func() bool { return key() != first })
	eventually(t, "so are their quotas", func() bool { return server.Exists("cs:{u:carol}:q") })
	for _, r := range all {
		if n := r.metrics.Shared.Outages.Get(); n > 0 || r.health.isDown() {
			t.Errorf("%d outages", n)
		}
		eventually(t, "it is degraded, and says by which key", func() bool {
			return strings.Contains(r.Degraded(), "not ours") && !strings.Contains(r.Degraded(), "cs:") && strings.Contains(r.Trouble(), "cs:")
		})
	}
	eventually(t, "her share is divided, after the time of a lease", func() bool { return !all[0].enter("alice", 10) && !all[1].enter("alice", 10) })
	eventually(t, "the log names all keys", func() bool {
		text := log.String()
		return strings.Contains(text, "cs:{u:alice}:conns") && strings.Contains(text, "cs:{u:bob}:q") && strings.Contains(text, "cs:{s:198.51.100.1}")
	})
	if n := strings.Count(log.String(), "key=cs:{u:alice}:conns"); n > 2 {
		t.Errorf("%d lines of two replicas", n)
	}
	server.Del("cs:{u:alice}:conns")
	server.Del("cs:{u:bob}:q")
	eventually(t, "all is well", func() bool { return all[0].Degraded() == "" && all[1].Degraded() == "" })
	eventually(t, "her cap is the fleet's", func() bool { return server.HGet("cs:{u:alice}:conns", all[0].ID()) != "" })
}

// What all replicas use is another program's: a probe that only wrote found the store
// well, ten times a second, and the next beat found it ill.
func TestStrangeKeyOfFleet(t *testing.T) {
	for _, key := range []string{"cs:{replicas}", "cs:{replicas}:lists", "cs:{bans}"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			server, url := fake(t)
			if err := server.Set(key, "x"); err != nil {
				t.Fatal(err)
			}
			var log written.Text
			r := join(t, url, "a", func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
			eventually(t, "it is down", func() bool { return r.health.isDown() && strings.Contains(r.Trouble(), "WRONGTYPE") })
			after(t.Context(), 5*firstProbe)
			if n := r.metrics.Shared.Outages.Get(); n != 1 || strings.Count(log.String(), "\n") != 1 {
				t.Errorf("%d outages:\n%s", n, log.String())
			}
			server.Del(key)
			eventually(t, "all is well", func() bool { return r.Degraded() == "" && r.fleet.count() == 1 && server.Exists("cs:{replicas}") })
		})
	}
}

// An outage a moment after another is not told at once, for a store may come and go.
// It was never told, though it lasted for hours.
func TestSecondOutageIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log written.Text
		s := New(Options{Metrics: metrics.New().Shared, Log: slog.New(slog.NewTextHandler(&log, nil))})
		ctx, h := t.Context(), &s.health
		told := func() int { return strings.Count(log.String(), "does not answer") }
		h.lost(ctx, s, errors.New("first"))
		h.worked(ctx, s)
		for range 20 {
			after(ctx, quiet/25)
			h.lost(ctx, s, errors.New("second"))
			if h.stays(ctx, s, errors.New("second")); told() != 1 {
				t.Fatal("a store that comes and goes fills the log")
			}
			h.worked(ctx, s)
		}
		if strings.Count(log.String(), "answers again") != 1 {
			t.Errorf("ends of outages that were not told:\n%s", log.String())
		}
		h.lost(ctx, s, errors.New("third"))
		after(ctx, quiet)
		for range 3 {
			h.stays(ctx, s, errors.New("fourth"))
			after(ctx, quiet)
		}
		if told() != 2 || !strings.Contains(log.String(), "fourth") {
			t.Errorf("the log has\n%s", log.String())
		}
	})
}
