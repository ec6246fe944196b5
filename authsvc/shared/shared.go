// Package shared has replicas of the daemon act as one: it keeps in Valkey or
// Redis what all of them must know. Bans and failures by source, auth-once, the
// connections, addresses and quotas of users, who is out, and the events that
// tell of changes. docs/fleet.md has the model.
//
//	store := shared.New(shared.Options{Target: target, Prefix: "cs:", Timeout: 20 * time.Millisecond, ...})
//	users.Join(store)
//	supervisor.Add(store)
//
// Whatever a replica holds is written as an absolute value of its own, with a
// lease: a call that is repeated counts once, and what a dead replica held
// ends with its lease. Where the store does not answer within the budget of a
// call, the replica decides by itself, or refuses: Options.Deny.
package shared

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"cleversocks/authsvc"
	"cleversocks/conn/task"
	"cleversocks/metrics"
)

// rhythm is how fast the fleet's heart beats. Every replica must have the same.
type rhythm struct {
	beat  time.Duration
	lease time.Duration // of what a replica holds, from its last beat on
	// forgotten: a replica that was silent for as long is off the list.
	forgotten time.Duration
}

// usual is the rhythm of all but tests.
var usual = rhythm{beat: 3 * time.Second, lease: 10 * time.Second, forgotten: 30 * time.Second}

// keyLife is for a key that only leases are in.
func (r rhythm) keyLife() time.Duration { return 6 * r.lease }

// Options say where the store is and what it is for.
type Options struct {
	Target  Target
	Prefix  string        // of every key
	Replica string        // its name, for people; the id has a random end
	Timeout time.Duration // of a call that a connection waits for; 0: 20 ms
	// Deny refuses what needs the store while it does not answer.
	Deny bool

	// Tables that are the same on all replicas. Nil ones are left out.
	Throttle *authsvc.Throttle
	Once     *authsvc.Once
	Quotas   *authsvc.Quotas
	Log      *slog.Logger
	Metrics  *metrics.Shared
	Panics   *task.Reporter
}

// Hooks are what the rest of the daemon does for the fleet. Nil ones do nothing.
type Hooks struct {
	// About is what the list of replicas says of this one, asked at each beat.
	About func() About
	// Kill ends the connections that an operator of another replica has named.
	// It is given what was given to [Store.Killed].
	Kill func(ctx context.Context, what []byte)
	// Out says that other users are out than before: see [Store.Out].
	Out func()
}

// Hook sets the hooks, before Serve.
func (s *Store) Hook(h Hooks) { s.hooks = h }

// About is what other replicas show of one.
type About struct {
	Admin       string    `json:"admin,omitempty"` // address of the management endpoint
	Version     string    `json:"version,omitempty"`
	Started     time.Time `json:"started"`
	Generation  uint64    `json:"generation"` // of the configuration
	Connections int       `json:"connections"`
	Limit       int       `json:"limit"`
	Draining    bool      `json:"draining,omitempty"`
}

// Store is one replica's part of the fleet. It is a service: it connects, keeps
// its leases, and follows the events. Before that, and whenever the store does
// not answer, its methods decide from what they know.
type Store struct {
	options Options
	hooks   Hooks
	keys    keys
	id      string // of this process: name and a random end
	log     *slog.Logger
	metrics *metrics.Shared
	began   time.Time // what times of the package count from
	rhythm  rhythm

	target  atomic.Pointer[Target]
	renewed chan struct{} // 1: the target has other secrets
	client  atomic.Pointer[rueidis.Client]
	run     atomic.Pointer[run] // nil: the service does not run
	runs    chan struct{}       // closed once it has run
	runOnce sync.Once
	permits chan struct{} // calls in flight
	health  health
	offset  atomic.Int64 // ms to add to our clock to have the store's

	met       atomic.Pointer[string] // where the events were when Meet looked
	reads     chan struct{}          // closed when the events are read
	readsOnce sync.Once

	fleet     fleet
	seats     seats
	outbox    outbox
	later     later
	missing   missing
	news      onceNews
	strange   strange
	out       outList
	usage     usage
	periods   periods
	restating restating
}

// New makes a replica's part that is not connected yet.
func New(o Options) *Store {
	if o.Timeout <= 0 {
		o.Timeout = 20 * time.Millisecond
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		options: o, keys: keys{o.Prefix}, id: newID(o.Replica), log: o.Log, metrics: o.Metrics, began: time.Now(), rhythm: usual,
		permits: make(chan struct{}, maxInFlight),
	}
	s.target.Store(&o.Target)
	s.renewed, s.runs = make(chan struct{}, 1), make(chan struct{})
	s.health.kick, s.reads = make(chan struct{}, 1), make(chan struct{})
	s.fleet.changed = make(chan struct{}, 1)
	s.seats.users = make(map[string]*seat)
	s.outbox.wake = make(chan struct{}, 1)
	s.later.start()
	s.out.own, s.out.elsewhere = map[string]struct{}{}, map[string]map[string]time.Time{}
	if o.Throttle != nil {
		o.Throttle.Join(s)
	}
	if o.Once != nil {
		o.Once.Join(s)
	}
	return s
}

// ID is the replica's, which no other process has or had.
func (s *Store) ID() string { return s.id }

// Name is the replica's name for people.
func (s *Store) Name() string { return s.options.Replica }

// String names the service.
func (s *Store) String() string { return "shared state" }

// now is a time that no clock's change moves.
func (s *Store) now() time.Duration { return time.Since(s.began) }

// Serve keeps the replica a part of the fleet until ctx ends; then it leaves
// it, so that the others need not wait for its leases to end.
func (s *Store) Serve(ctx context.Context) error {
	if s.client.Load() == nil {
		if err := s.connect(ctx); err != nil {
			return err
		}
	}
	scope, running := task.New(ctx, s.options.Panics, "shared")
	s.run.Store(&run{scope, running})
	s.runOnce.Do(func() { close(s.runs) })
	for _, f := range []func(context.Context) error{s.keepLeases, s.watchHealth, s.follow, s.send, s.keepQuotas, s.renew} {
		scope.Go(func() error { return f(running) })
	}
	for i := range s.later.queues {
		scope.Go(func() error { return s.work(running, &s.later.queues[i]) })
	}
	s.askWaiting()
	<-running.Done()
	s.run.Store(nil)
	err := scope.Wait()
	if ctx.Err() != nil {
		s.leave(context.WithoutCancel(ctx))
		return ctx.Err()
	}
	return err
}

// Close gives the connections back, once Serve has ended.
func (s *Store) Close() {
	if c := s.client.Swap(nil); c != nil {
		(*c).Close()
	}
}

// run is one run of the service: what its goroutines belong to.
type run struct {
	*task.Scope
	ctx context.Context //nolint:containedctx // a scope is the life of its context
}

// background runs f on a goroutine of the service's, which ends by itself
// soon; false: the service does not run.
func (s *Store) background(f func(ctx context.Context)) bool {
	r := s.run.Load()
	if r == nil {
		return false
	}
	r.Go(func() error { f(r.ctx); return nil })
	return true
}

// leave gives back what the replica holds, and says goodbye.
func (s *Store) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	if s.client.Load() == nil || s.health.isDown() {
		return
	}
	s.foldQuotas(ctx)
	s.emptySeats(ctx)
	s.depart(ctx)
}

// leaveTimeout bounds what a departure may take: leases end by themselves.
const leaveTimeout = time.Second

// after waits, and reports false when ctx ends first.
func after(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// missing remembers sources that the store did not know a moment ago.
type missing struct {
	mu    sync.Mutex
	until map[netip.Addr]time.Duration
}
