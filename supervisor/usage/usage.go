// Package usage pushes what users used, and which sessions there were, to an
// HTTP endpoint: each event once by its id, in batches that wait in a spool
// while the endpoint does not take them.
//
//	u := usage.New(usage.Options{Sessions: group.Sessions, ...})
//	u.Set(usage.Settings{URL: "https://billing.example/usage", Interval: 10 * time.Second, ...})
//	go u.Serve(ctx)
//	u.Session(record) // of each connection that opens or has ended
//	u.Close()         // when nothing calls Session any more
package usage

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"strconv"
	"sync/atomic"
	"time"

	"cleversocks/conn/task"
	"cleversocks/metrics"
)

const (
	// queueLength is how many events wait for the service.
	queueLength = 8192
	// maxBatch bounds a batch's events.
	maxBatch = 1000
	// lastWords is how long Close tries to push what is left.
	lastWords = 2 * time.Second
)

// Options is what the service is made of.
type Options struct {
	Log     *slog.Logger
	Metrics metrics.Usage
	Panics  *task.Reporter
	// Sessions are those of now that relay, for what they have moved so far.
	Sessions func() []Session
	// Directory is state.directory; "": batches wait in memory.
	Directory string
}

// Settings are the [usage] section.
type Settings struct {
	URL       string // "": nothing is pushed
	Interval  time.Duration
	Token     string         // "": none
	Authority *x509.CertPool // nil: the system's
	Spool     int64          // bytes that may wait
}

// Session is a connection as events tell it.
type Session struct {
	ID       string    `json:"session"`
	Started  time.Time `json:"started"`
	User     string    `json:"user"`
	Client   string    `json:"client"`
	Listener string    `json:"listener"`
	Protocol string    `json:"protocol,omitempty"`
	Command  string    `json:"command,omitempty"`
	Target   string    `json:"target,omitempty"`
	HostIP   string    `json:"host_ip,omitempty"`
	Upstream string    `json:"upstream,omitempty"`
	BytesIn  int64     `json:"bytes_in"`
	BytesOut int64     `json:"bytes_out"`
	Duration float64   `json:"duration_ms"`
	Cause    string    `json:"cause,omitempty"` // "": it opens
}

// head is what all events have.
type head struct {
	ID   string    `json:"id"`
	Type string    `json:"type"` // opened, closed or usage
	Time time.Time `json:"time"`
}

// event is one object of a batch: of a session, or of what a user moved.
type event struct {
	head
	session *Session
	used    *used
}

// MarshalJSON writes one flat object.
func (e event) MarshalJSON() ([]byte, error) {
	if e.used != nil {
		return json.Marshal(struct {
			head
			*used
		}{e.head, e.used})
	}
	return json.Marshal(struct {
		head
		*Session
	}{e.head, e.session})
}

// used is what a user moved since the last such event.
type used struct {
	Name     string    `json:"user"`
	Since    time.Time `json:"since"`
	BytesIn  int64     `json:"bytes_in"`
	BytesOut int64     `json:"bytes_out"`
}

// Usage is the service.
type Usage struct {
	o        Options
	settings atomic.Pointer[Settings]
	queue    chan *Session // pointers: an empty one takes no memory to speak of
	changed  chan struct{} // 1: settings
	wake     chan struct{} // 1: the spool has something new
	spool    *spool

	// The rest belongs to the goroutine of collect.
	instance string // of this process: no id of it is used again
	next     uint64
	pending  []event
	ledger   ledger
}

// New makes the service, which pushes nothing until Set.
func New(o Options) *Usage {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	u := &Usage{
		o: o, queue: make(chan *Session, queueLength), changed: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		instance: hex.EncodeToString(id[:]), ledger: newLedger(),
	}
	u.spool = newSpool(o.Directory, u.instance, o.Metrics)
	u.settings.Store(&Settings{})
	return u
}

func (u *Usage) String() string { return "usage" }

// Set puts other settings in force.
func (u *Usage) Set(s Settings) {
	u.settings.Store(&s)
	poke(u.changed)
	poke(u.wake)
}

// Wanted says whether events are pushed.
func (u *Usage) Wanted() bool { return u.settings.Load().URL != "" }

// Session takes a session that opens, or has ended. It never blocks: what finds
// no room is counted as lost.
func (u *Usage) Session(s Session) {
	if !u.Wanted() {
		return
	}
	event := s // s itself would be allocated where nobody wants it
	select {
	case u.queue <- &event:
	default:
		u.o.Metrics.Events.Of(metrics.UsageLost).Inc()
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Serve makes batches and pushes them until ctx ends. What is left then is
// Close's.
func (u *Usage) Serve(ctx context.Context) error {
	scope, inner := task.New(ctx, u.o.Panics, "usage")
	scope.Go(func() error { return u.collect(inner) })
	scope.Go(func() error { return newPusher(u).run(inner) })
	return scope.Wait()
}

// collect gathers events.
func (u *Usage) collect(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	u.rearm(timer)
	for {
		select {
		case s := <-u.queue:
			u.take(s)
			if len(u.pending) >= maxBatch {
				u.store(ctx)
			}
		case <-timer.C:
			u.account()
			u.store(ctx)
			u.rearm(timer)
		case <-u.changed:
			u.rearm(timer)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// rearm sets the timer for the next batch; without an endpoint there is none.
func (u *Usage) rearm(timer *time.Timer) {
	timer.Stop()
	if s := u.settings.Load(); s.URL != "" {
		timer.Reset(s.Interval)
	}
}

// take makes an event of a session.
func (u *Usage) take(s *Session) {
	e := event{head: head{Type: "opened"}, session: s}
	if s.Cause != "" {
		e.Type = "closed"
		u.ledger.ended(s)
	}
	u.add(e)
}

// account makes an event of what each user has moved since the last time.
func (u *Usage) account() {
	for _, total := range u.ledger.settle(u.o.Sessions(), time.Now()) {
		u.add(event{head: head{Type: "usage"}, used: &total})
	}
}

func (u *Usage) add(e event) {
	u.next++
	e.ID = u.instance + "-" + strconv.FormatUint(u.next, 10)
	e.Time = time.Now().UTC()
	u.pending = append(u.pending, e)
}

// store gives what is pending to the spool. What finds no room there is lost,
// but for what users moved: that is told later, with what they move until then.
func (u *Usage) store(ctx context.Context) {
	for len(u.pending) > 0 {
		batch := u.pending[:min(len(u.pending), maxBatch)]
		u.pending = u.pending[len(batch):]
		err := u.spool.put(batch, u.settings.Load().Spool)
		if err == nil {
			continue
		}
		lost := 0
		for _, e := range batch {
			if e.used != nil {
				u.ledger.back(*e.used)
			} else {
				lost++
			}
		}
		u.o.Metrics.Events.Of(metrics.UsageLost).Add(lost)
		u.o.Log.LogAttrs(ctx, slog.LevelError, "usage events were lost", slog.Int("events", lost), slog.Any("err", err))
	}
	u.pending = nil
	poke(u.wake)
}

// Close makes batches of all that is left, once nothing calls Session any more and Serve has
// returned, and tries to push them for a moment. What is not taken waits for the
// next start, if it is on disk.
func (u *Usage) Close() {
	if !u.Wanted() {
		u.spool.close()
		return
	}
	for len(u.queue) > 0 {
		u.take(<-u.queue)
	}
	u.account()
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	u.store(ctx)
	newPusher(u).once(ctx)
	if left := u.spool.forgotten(); left > 0 {
		u.o.Metrics.Events.Of(metrics.UsageLost).Add(left)
		u.o.Log.LogAttrs(ctx, slog.LevelError, "usage events were lost: nobody took them, and there is no state.directory", slog.Int("events", left))
	}
	u.spool.close()
}
