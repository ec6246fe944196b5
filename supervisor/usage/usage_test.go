package usage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cleversocks/metrics"
)

const patience = 20 * time.Second

// endpoint collects events, and answers as told.
type endpoint struct {
	*httptest.Server
	mu     sync.Mutex
	status int  // what it answers; 0: 200
	keeps  bool // takes a batch even where it answers that it did not
	posts  int
	auth   string
	events map[string]map[string]any // by id
	twice  int
}

func newEndpoint(t *testing.T) *endpoint {
	t.Helper()
	e := &endpoint{events: make(map[string]map[string]any)}
	e.Server = httptest.NewServer(http.HandlerFunc(e.serve))
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.posts++
	e.auth = r.Header.Get("Authorization")
	if e.status == 0 || e.keeps {
		var b struct {
			Batch  string
			Events []map[string]any
		}
		if err := json.Unmarshal(body, &b); err != nil || b.Batch != r.Header.Get("Idempotency-Key") {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		for _, one := range b.Events {
			if _, known := e.events[one["id"].(string)]; known {
				e.twice++
			}
			e.events[one["id"].(string)] = one
		}
	}
	if e.status != 0 {
		w.WriteHeader(e.status)
	}
}

func (e *endpoint) answer(status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status = status
}

// count is how many events of a type there are, and the sum of their bytes_in.
func (e *endpoint) count(kind string) (n int, bytes float64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, one := range e.events {
		if one["type"] == kind {
			n++
			bytes += one["bytes_in"].(float64)
		}
	}
	return n, bytes
}

// started is a service that runs until stop, or the test's end.
type started struct {
	*Usage
	m    *metrics.Registry
	live []Session
	stop func()
}

func begin(t *testing.T, dir string, s Settings) *started {
	t.Helper()
	out := &started{m: metrics.New()}
	out.Usage = New(Options{
		Log: slog.New(slog.DiscardHandler), Metrics: out.m.Usage, Directory: dir,
		Sessions: func() []Session { return out.live },
	})
	if s.Spool == 0 {
		s.Spool = 1 << 20
	}
	if s.Interval == 0 {
		s.Interval = 20 * time.Millisecond
	}
	out.Set(s)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- out.Serve(ctx) }()
	out.stop = sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(out.stop)
	return out
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
		time.Sleep(5 * time.Millisecond) //nolint:forbidigo // it looks again
	}
}

func closed(i int, user string) Session {
	return Session{ID: fmt.Sprint(i), User: user, BytesIn: 10, BytesOut: 20, Cause: "client_closed"}
}

// An endpoint that is dead, then takes batches and says that it did not, gets
// each event, and can tell by its id what it has already. What users used adds
// up to what their sessions moved.
func TestEachEventOnceByItsID(t *testing.T) {
	for name, dir := range map[string]string{"on disk": t.TempDir(), "in memory": ""} {
		t.Run(name, func(t *testing.T) {
			e := newEndpoint(t)
			e.status, e.keeps = http.StatusInternalServerError, true
			u := begin(t, dir, Settings{URL: e.URL, Token: "s3cret"})
			for i := range 250 {
				u.Session(closed(i, "alice"))
			}
			eventually(t, "a post", func() bool { e.mu.Lock(); defer e.mu.Unlock(); return e.posts > 0 })
			for i := range 250 {
				u.Session(closed(1000+i, "bob"))
			}
			e.answer(0)
			u.Set(*u.settings.Load()) // as a reload does: it ends the pause
			eventually(t, "all events", func() bool { n, _ := e.count("closed"); _, sum := e.count("usage"); return n == 500 && sum == 5000 })
			eventually(t, "an empty spool", func() bool { return u.m.Usage.Spool.Load() == 0 })
			if e.auth != "Bearer s3cret" {
				t.Errorf("authorization %q", e.auth)
			}
			if n := u.m.Usage.Events.Of(metrics.UsageLost).Get(); n != 0 {
				t.Errorf("%d lost", n)
			}
		})
	}
}

// What was not taken when the process ended is pushed by the next one, with
// the ids of before; a batch that was cut short by a crash is none.
func TestEventsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	e := newEndpoint(t)
	e.status, e.keeps = http.StatusServiceUnavailable, true
	u := begin(t, dir, Settings{URL: e.URL})
	u.Session(closed(1, "alice"))
	eventually(t, "a post", func() bool { n, _ := e.count("closed"); return n == 1 })
	u.Session(closed(2, "alice"))
	u.stop()
	u.Close()
	if err := os.WriteFile(filepath.Join(dir, "usage", ".half.json123"), []byte(`{"batch":`), 0o600); err != nil {
		t.Fatal(err)
	}
	e.answer(0)
	next := begin(t, dir, Settings{URL: e.URL})
	eventually(t, "an empty spool", func() bool { return len(next.spool.list()) == 0 })
	if n, sum := e.count("closed"); n != 2 || sum != 20 || e.twice == 0 {
		t.Errorf("%d events of %v bytes; %d were sent twice, with the same id", n, sum, e.twice)
	}
}

// Two processes share a folder while one takes over from the other: one of
// them pushes, and then the other.
func TestOneProcessPushes(t *testing.T) {
	dir := t.TempDir()
	e := newEndpoint(t)
	old := begin(t, dir, Settings{URL: e.URL})
	old.Session(closed(1, "alice"))
	eventually(t, "the first event", func() bool { n, _ := e.count("closed"); return n == 1 })
	young := begin(t, dir, Settings{URL: e.URL})
	young.Session(closed(1, "bob"))
	eventually(t, "the second event", func() bool { n, _ := e.count("closed"); return n == 2 })
	if young.spool.mine() {
		t.Error("both push")
	}
	old.stop()
	old.Close()
	young.Session(closed(2, "bob"))
	eventually(t, "the third event", func() bool { n, _ := e.count("closed"); return n == 3 })
	if e.twice != 0 {
		t.Errorf("%d were sent twice", e.twice)
	}
}

// A full spool loses sessions, which are counted, and not what users used.
func TestFullSpool(t *testing.T) {
	e := newEndpoint(t)
	e.status = http.StatusBadGateway
	u := begin(t, t.TempDir(), Settings{URL: e.URL, Spool: 4 << 10})
	for i := range 300 {
		u.Session(closed(i, "alice"))
	}
	eventually(t, "lost events", func() bool { return u.m.Usage.Events.Of(metrics.UsageLost).Get() > 0 })
	e.answer(0)
	u.Set(Settings{URL: e.URL, Spool: 1 << 20, Interval: 20 * time.Millisecond})
	eventually(t, "what was used", func() bool { _, sum := e.count("usage"); return sum == 3000 })
	eventually(t, "each session has come, or is counted as lost", func() bool {
		n, _ := e.count("closed")
		return n+int(u.m.Usage.Events.Of(metrics.UsageLost).Get()) == 300
	})
}

// A disk that cannot be written loses events as a full spool does.
func TestDiskThatFails(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "usage"), []byte("in the way"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := newEndpoint(t)
	u := begin(t, dir, Settings{URL: e.URL})
	u.Session(closed(1, "alice"))
	eventually(t, "a lost event", func() bool { return u.m.Usage.Events.Of(metrics.UsageLost).Get() == 1 })
	if err := os.Remove(filepath.Join(dir, "usage")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was used", func() bool { _, sum := e.count("usage"); return sum == 10 })
}

// A batch that the endpoint will never take does not hold up the others.
func TestRejected(t *testing.T) {
	e := newEndpoint(t)
	e.status = http.StatusUnprocessableEntity
	u := begin(t, t.TempDir(), Settings{URL: e.URL})
	u.Session(closed(1, "alice"))
	eventually(t, "a rejection", func() bool { return u.m.Usage.Events.Of(metrics.UsageRejected).Get() == 2 })
	e.answer(0)
	u.Session(closed(2, "alice"))
	eventually(t, "the next", func() bool { n, _ := e.count("closed"); return n == 1 })
}

// The endpoint's certificate is verified, and a redirect, which would take the
// token elsewhere, is not followed.
func TestWhoIsTold(t *testing.T) {
	elsewhere := newEndpoint(t)
	plain := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer plain.Close()
	tls := httptest.NewTLSServer(http.HandlerFunc(elsewhere.serve))
	defer tls.Close()
	tls.Config.ErrorLog = nil
	for _, url := range []string{plain.URL, tls.URL} {
		u := begin(t, "", Settings{URL: url, Token: "s3cret"})
		u.Session(closed(1, "alice"))
		eventually(t, "a failure", func() bool { return u.m.Usage.Pushes.Of("failed").Get() > 0 })
	}
	if elsewhere.posts > 0 {
		t.Error("somebody else was told")
	}
	trusted := begin(t, "", Settings{URL: tls.URL, Authority: tls.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs})
	trusted.Session(closed(1, "alice"))
	eventually(t, "an event", func() bool { n, _ := elsewhere.count("closed"); return n == 1 })
}

// A session of days is in its user's usage while it lasts, each byte once, and
// one that is still listed after its end is not counted again.
func TestLedger(t *testing.T) {
	l := newLedger()
	total := func(live ...Session) (sum int64) {
		for _, u := range l.settle(live, time.Now()) {
			sum += u.BytesIn
		}
		return sum
	}
	s := Session{ID: "1", User: "alice", BytesIn: 100}
	if got := total(s); got != 100 {
		t.Error(got)
	}
	s.BytesIn = 150
	if got := total(s); got != 50 {
		t.Error(got)
	}
	s.BytesIn = 175
	l.ended(&s)
	if got := total(s); got != 25 {
		t.Error(got)
	}
	for range 3 {
		if got := total(); got != 0 || len(l.told) != 0 {
			t.Error(got, l.told)
		}
	}
	lost := Session{ID: "2", User: "alice", BytesIn: 7} // its end is never told
	total(lost)
	total()
	total()
	if len(l.told) != 0 {
		t.Error("a session whose end was lost is kept for ever")
	}
}

// Close tells of what is lost, where there is no disk.
func TestCloseWithoutADisk(t *testing.T) {
	var log strings.Builder
	m := metrics.New()
	u := New(Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Metrics: m.Usage, Sessions: func() []Session { return nil }})
	dead := httptest.NewServer(nil)
	dead.Close()
	u.Set(Settings{URL: dead.URL, Interval: time.Hour, Spool: 1 << 20})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := u.Serve(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	u.Session(closed(1, "alice"))
	u.Close()
	if n := m.Usage.Events.Of(metrics.UsageLost).Get(); n != 2 || !strings.Contains(log.String(), "usage events were lost") {
		t.Errorf("%d lost: %s", n, log.String())
	}
}

// An endpoint says when it is to be asked again, in seconds or as a date, and not
// for ever.
func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 29, 10, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "0": 0, "-1": 0, "soon": 0, "999999999": lastPause, "99999999999999999999": 0,
		"Sun, 29 Nov 2026 10:00:30 GMT": 30 * time.Second, "Sun, 29 Nov 2026 09:00:00 GMT": 0, "Mon, 30 Nov 2026 10:00:00 GMT": lastPause,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}
