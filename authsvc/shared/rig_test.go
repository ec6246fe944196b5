package shared

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"go.uber.org/goleak"

	"cleversocks/aclsvc/ratelimit"
	"cleversocks/authsvc"
	"cleversocks/metrics"
)

func TestMain(m *testing.M) {
	// The client library looks for a cluster's nodes a second later: miniredis says
	// that it is one.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"))
}

// patience bounds every wait for what is to happen.
const patience = 20 * time.Second

// quick is a rhythm for tests: leases end within a second.
var quick = rhythm{beat: 150 * time.Millisecond, lease: time.Second, forgotten: 3 * time.Second}

// replica is one of a fleet under test.
type replica struct {
	*Store
	throttle *authsvc.Throttle
	once     *authsvc.Once
	quotas   *authsvc.Quotas
	metrics  *metrics.Registry

	mu     sync.Mutex
	killed []string
	stop   func() // and wait; leases are given back
}

// terms ban at the third failure.
var terms = authsvc.ThrottleOptions{Max: 3, Window: time.Minute, Ban: 100 * time.Second, BanMax: 400 * time.Second}

// join starts a replica. The budget of its calls is long, so that a loaded
// machine changes no verdict, unless the test says otherwise.
func join(t *testing.T, url, name string, options ...func(*Options)) *replica {
	t.Helper()
	r := prepare(t, url, name, options...)
	r.serve(t)
	return r
}

// prepare makes a replica that does not run yet.
func prepare(t *testing.T, url, name string, options ...func(*Options)) *replica {
	t.Helper()
	target, err := ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	m := metrics.New()
	state := authsvc.StateOptions{Metrics: &m.Auth}
	r := &replica{
		throttle: authsvc.NewThrottle(terms, state), quotas: authsvc.NewQuotas(state),
		once: authsvc.NewOnce(authsvc.OnceOptions{TTL: time.Hour, Max: 100}, state), metrics: m,
	}
	o := Options{
		Target: target, Prefix: "cs:", Replica: name, Timeout: 2 * time.Second,
		Throttle: r.throttle, Once: r.once, Quotas: r.quotas, Metrics: m.Shared,
	}
	for _, f := range options {
		f(&o)
	}
	r.Store = New(o)
	r.rhythm = quick
	r.Hook(Hooks{Kill: func(_ context.Context, what []byte) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.killed = append(r.killed, string(what))
	}})
	return r
}

func (r *replica) serve(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Serve(ctx) }()
	r.stop = sync.OnceFunc(func() { cancel(); <-done; r.Close() })
	t.Cleanup(r.stop)
}

// joinAll starts replicas that know each other.
func joinAll(t *testing.T, url string, n int, options ...func(*Options)) []*replica {
	t.Helper()
	var all []*replica
	for i := range n {
		all = append(all, join(t, url, string(rune('a'+i)), options...))
	}
	acquainted(t, all)
	return all
}

// acquainted waits until replicas know each other.
func acquainted(t *testing.T, all []*replica) {
	t.Helper()
	for _, r := range all {
		eventually(t, "all know each other", func() bool { return r.fleet.count() == len(all) && r.settledNow() })
	}
}

// settledNow reports whether a replica counts on being counted.
func (r *replica) settledNow() bool {
	r.fleet.mu.Lock()
	defer r.fleet.mu.Unlock()
	return r.fleet.floors > 0 && r.fleet.floors == r.fleet.seen[0]
}

// die is SIGKILL: nothing more is said to the store.
func (r *replica) die() {
	r.target.Store(&Target{Unix: true, Addresses: []string{"/nowhere"}})
	client := r.client.Swap(nil)
	(*client).Close()
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	eventuallyIn(t, patience, what, ok)
}

// eventuallyIn is for what takes thousands of calls.
func eventuallyIn(t *testing.T, bound time.Duration, what string, ok func() bool) {
	t.Helper()
	// Less and less often: on a slow machine the question may cost what is waited for.
	look := 5 * time.Millisecond
	for end := time.Now().Add(bound); !ok(); look = min(2*look, 200*time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
		after(t.Context(), look)
	}
}

func fake(t *testing.T) (*miniredis.Miniredis, string) {
	t.Helper()
	server := miniredis.RunT(t)
	return server, "redis://" + server.Addr()
}

var home = netip.MustParseAddr("192.0.2.7")

func (r *replica) enter(user string, most int) bool {
	return r.Enter(context.Background(), user, home, most, 0, nil) == ratelimit.Admitted
}

// quiet waits until the replica has told all that it has to tell of a user.
func (r *replica) quiet(t *testing.T, user string) {
	t.Helper()
	eventually(t, "the store has heard it", func() bool {
		u := r.lockSeat(user)
		defer u.mu.Unlock()
		return !u.busy && !u.stale
	})
}
