package shared

import (
	"context"
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"cleversocks/metrics"
)

// event is what one replica tells the others. Who reads one late knows by At
// how late.
type event struct {
	Kind   string     `json:"k"`
	From   string     `json:"r"` // the replica's id
	At     int64      `json:"t"` // ms of the store's clock
	User   string     `json:"-"`
	Name   []byte     `json:"u,omitempty"` // User: names are bytes
	Names  [][]byte   `json:"n,omitempty"` // of tighten, where nobody waits for it
	Source netip.Addr `json:"s,omitzero"`
	Ban    *banData   `json:"b,omitempty"`
	What   []byte     `json:"w,omitempty"` // of kill, once and mark
	Before int64      `json:"p,omitempty"` // of join: when the replica was on the list before, like At
}

// The kinds of events.
const (
	eventJoin    = "join"    // a replica that is not on the list
	eventLeft    = "left"    // a replica that has gone in peace
	eventBan     = "ban"     // a source
	eventUnban   = "unban"   // a source
	eventOnce    = "once"    // an address that has logged in
	eventRevoke  = "revoke"  // an address that auth-once lets in no more
	eventKill    = "kill"    // connections that an operator has named
	eventOut     = "out"     // a user whom a replica's settings disable; of no user: another list of these
	eventIn      = "in"      // one whom they disable no more
	eventTighten = "tighten" // a user of whom nobody must use a floor, or several
	eventMark    = "mark"    // what its sender reads again: it has read all before
	eventReset   = "reset"   // a user whose quota begins anew
)

// outbox are events that wait to be sent, in order. They wait for a store that
// is away, but not for long: a kill must not meet who comes much later.
type outbox struct {
	mu   sync.Mutex
	list []waitingEvent
	wake chan struct{} // 1
}

type waitingEvent struct {
	event
	since time.Duration
}

// Bounds of the outbox.
const (
	maxOutbox = 4096
	outboxAge = 30 * time.Second
	sendBatch = 128
)

// streamLength is about how many events the store keeps.
const streamLength = 10_000

// publish has an event sent. It does not wait.
func (s *Store) publish(e event) {
	e.From, e.At = s.id, s.storeTime(time.Now())
	if e.User != "" {
		e.Name = []byte(e.User)
	}
	o := &s.outbox
	o.mu.Lock()
	if len(o.list) >= maxOutbox {
		o.list = o.list[1:]
		s.metrics.Dropped.Inc()
	}
	o.list = append(o.list, waitingEvent{e, s.now()})
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// next are the oldest events that wait.
func (o *outbox) next(now time.Duration, dropped *metrics.Counter) []waitingEvent {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.list) > 0 && now-o.list[0].since > outboxAge {
		o.list = o.list[1:]
		dropped.Inc()
	}
	return o.list[:min(len(o.list), sendBatch):min(len(o.list), sendBatch)]
}

// sent takes events out that next gave.
func (o *outbox) sent(batch []waitingEvent) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range batch {
		if len(o.list) > 0 && o.list[0].since == e.since && o.list[0].Kind == e.Kind {
			o.list = o.list[1:]
		}
	}
}

// send sends what is in the outbox until ctx ends.
func (s *Store) send(ctx context.Context) error {
	for {
		batch := s.outbox.next(s.now(), s.metrics.Dropped)
		if len(batch) == 0 {
			select {
			case <-s.outbox.wake:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		if !s.sendAll(ctx, batch) && !after(ctx, 50*time.Millisecond) {
			return ctx.Err()
		}
	}
}

func (s *Store) sendAll(ctx context.Context, batch []waitingEvent) bool {
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	err := s.call(ctx, "event", func(ctx context.Context, c rueidis.Client) error {
		commands := make([]rueidis.Completed, len(batch))
		for i, e := range batch {
			commands[i] = s.adding(c, e.event)
		}
		for _, r := range c.DoMulti(ctx, commands...) {
			if err := r.Error(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return false
	}
	for _, e := range batch {
		s.metrics.Events.Of("sent", e.Kind).Inc()
	}
	s.outbox.sent(batch)
	return true
}

func (s *Store) adding(c rueidis.Client, e event) rueidis.Completed {
	text, err := json.Marshal(e)
	if err != nil {
		text = []byte("{}") // its types are ours: it cannot be
	}
	return c.B().Xadd().Key(s.keys.events()).Maxlen().Almost().Threshold(itoa(streamLength)).Id("*").FieldValue().FieldValue("e", string(text)).Build()
}

// sendNow sends one event past the outbox.
func (s *Store) sendNow(ctx context.Context, c rueidis.Client, e event) error {
	e.From, e.At = s.id, s.storeTime(time.Now())
	return c.Do(ctx, s.adding(c, e)).Error()
}

// Bounds of reading the stream. The store holds a read back until there is
// something, for as long as readBlock.
const (
	readBatch   = 512
	readBlock   = time.Second
	readTimeout = 2 * time.Second
)

// follow reads the events until ctx ends. After each interruption it goes on
// where it was, and reads the list of bans again: of what is past the stream's
// length it may have missed some.
func (s *Store) follow(ctx context.Context) error {
	last, current := "", false
	var before *rueidis.Client
	for ctx.Err() == nil {
		client := s.client.Load()
		current = current && client == before // or it may be another store
		before = client
		if client == nil || s.health.isDown() {
			current = false
			after(ctx, 20*time.Millisecond)
			continue
		}
		err := s.followOn(ctx, *client, &last, &current)
		if err == nil || ctx.Err() != nil {
			continue
		}
		current = false
		if s.client.Load() == client { // else another has taken its place
			s.health.lost(ctx, s, err)
		}
	}
	return ctx.Err()
}

func (s *Store) followOn(ctx context.Context, c rueidis.Client, last *string, current *bool) error {
	if met := s.met.Swap(nil); *last == "" && met != nil {
		*last = *met
		s.readsOnce.Do(func() { close(s.reads) })
	}
	if !*current {
		id, err := s.newest(ctx, c)
		if err != nil {
			return err
		}
		// Another store, the clock of which is behind: its next events would be old.
		if *last == "" || earlier(id, *last) {
			*last = id
		}
		s.readsOnce.Do(func() { close(s.reads) })
		if err := s.readBans(ctx, c); err != nil {
			return err
		}
		*current = true
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	got, err := c.Do(ctx, c.B().Xread().Count(readBatch).Block(readBlock.Milliseconds()).Streams().Key(s.keys.events()).Id(*last).Build().UnblockOnCancel()).AsXRead()
	if rueidis.IsRedisNil(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range got[s.keys.events()] {
		*last = entry.ID
		var e event
		if json.Unmarshal([]byte(entry.FieldValues["e"]), &e) != nil {
			continue
		}
		if e.From != s.id {
			e.User = string(e.Name)
			s.happened(ctx, &e)
		} else {
			s.happenedHere(&e)
		}
	}
	return nil
}

// earlier reports whether a place in the stream is before another.
func earlier(id, other string) bool {
	at, n := place(id)
	otherAt, otherN := place(other)
	return at < otherAt || at == otherAt && n < otherN
}

func place(id string) (at, n uint64) {
	before, behind, _ := strings.Cut(id, "-")
	at, _ = strconv.ParseUint(before, 10, 64) // the store's own form
	n, _ = strconv.ParseUint(behind, 10, 64)
	return at, n
}

// newest is where the stream ends now.
func (s *Store) newest(ctx context.Context, c rueidis.Client) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, backgroundTimeout)
	defer cancel()
	list, err := c.Do(ctx, c.B().Xrevrange().Key(s.keys.events()).End("+").Start("-").Count(1).Build()).AsXRange()
	if err != nil && !rueidis.IsRedisNil(err) {
		return "", err
	}
	if len(list) == 0 {
		return "0-0", nil
	}
	return list[0].ID, nil
}

// happened takes what another replica tells.
func (s *Store) happened(ctx context.Context, e *event) {
	s.metrics.Events.Of("received", e.Kind).Inc()
	s.metrics.EventDelay.Update(max(float64(s.storeTime(time.Now())-e.At)/1000, 0))
	switch e.Kind {
	case eventJoin:
		s.fleet.joins(s.rhythm, e.From, e.Before)
	case eventLeft:
		s.fleet.kick()
	case eventBan:
		s.banned(e.Source, e.Ban)
	case eventUnban:
		if s.options.Throttle != nil {
			s.options.Throttle.Forget(e.Source)
		}
	case eventOnce:
		s.learnOnce(e.Source, e.What)
	case eventRevoke:
		s.missing.add(e.Source, s.now()+missingLife)
		if s.options.Once != nil {
			s.options.Once.Forget(e.Source)
		}
	case eventKill:
		if s.hooks.Kill != nil {
			s.hooks.Kill(ctx, e.What)
		}
	case eventOut, eventIn:
		if e.User == "" {
			s.fleet.kick() // the beat reads the lists
			break
		}
		s.outElsewhere(e.User, e.From, e.Kind == eventOut)
	case eventTighten:
		if s.hearsay(e.Names); e.User != "" {
			s.becomeStrict(e.User)
		}
	case eventMark: // of another
	case eventReset:
		if s.options.Quotas != nil {
			s.options.Quotas.Unshared(e.User) // the store says what is used now
		}
	}
}

// happenedHere takes what this replica has told, in its place among the events: of
// a ban here and its end elsewhere, told at the same time, the later one holds on
// all replicas.
func (s *Store) happenedHere(e *event) {
	switch e.Kind {
	case eventMark:
		s.fleet.readMark(string(e.What))
	case eventBan:
		s.ownBan(e.Ban)
		s.banned(e.Source, e.Ban)
	case eventUnban:
		if s.options.Throttle != nil {
			s.options.Throttle.Forget(e.Source)
		}
	}
}

// Killed tells the other replicas of connections that an operator has ended, in
// words that their Hooks.Kill understands.
func (s *Store) Killed(what []byte) { s.publish(event{Kind: eventKill, What: what}) }
