package authsvc

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"cleversocks/conn/netaddr"
)

const (
	// repeatWindow is for how long the same wrong credentials from the same
	// source are one failure: a device that holds an old password tries it
	// for ever, and must not ban the office that it stands in.
	repeatWindow = time.Minute
	// waitingTries is how many tries of one source, each with other
	// credentials, wait for those in flight: a whole company behind one
	// address, at nine in the morning. One more is busy.
	waitingTries = 1000
)

// Try is a check of credentials in flight. It takes one of the failures that
// its source has left before anything is looked up, so that a source which
// begins a thousand checks at once has no more guesses than one that takes
// its time. A nil Try is of a source that nothing is counted of.
type Try struct {
	throttle *Throttle
	source   netip.Addr // a netaddr.SourceKey
	tag      uint64     // of the credentials

	// What follows is the shard's, until decided is closed.
	joined  []*Try // wait for the outcome of this one: the same credentials
	decided chan struct{}
	verdict verdict
}

// verdict is what becomes of a try that waits.
type verdict uint8

const (
	verdictGo       verdict = iota // it is in flight
	verdictPass                    // the same credentials were right just now
	verdictRepeated                // the same credentials were wrong just now
	verdictBanned
)

// Outcome is how a check ended.
type Outcome uint8

// The outcomes of a check.
const (
	Undecided Outcome = iota // the client left, or time was up
	Right
	Wrong
)

// Begin asks for a try with the credentials that tag stands for. It waits
// while the tries in flight may still use up what the source (an unmapped
// address) has left, and shares the outcome of one with the same credentials.
// Who gets a Try owes it one End. The error is a *Refusal: ReasonBanned,
// ReasonRepeated, or ReasonBusy, which is a failure and counted as one; or
// ctx's. A ban that a busy one brought is returned.
func (t *Throttle) Begin(ctx context.Context, addr netip.Addr, tag uint64) (try *Try, ban Ban, err error) {
	settings := t.settings.Load()
	if settings.Max <= 0 || settings.exempt.Contains(addr) {
		return nil, Ban{}, nil
	}
	source := netaddr.SourceKey(addr)
	s := t.shard(source)
	s.mu.Lock()
	try, ban, err = t.enter(s, source, tag, time.Now(), settings)
	s.mu.Unlock()
	if err != nil {
		return nil, ban, err
	}
	return try.wait(ctx)
}

// enter puts a try in line, or lets it begin. The error is ErrBusy when the line is
// too long, which is counted. The shard is locked.
func (t *Throttle) enter(s *throttleShard, source netip.Addr, tag uint64, now time.Time, settings *throttleSettings) (*Try, Ban, error) {
	o := t.offender(s, source, now, settings)
	if o.isFull(tag) {
		return nil, t.count(source, o, tag, now, settings), ErrBusy
	}
	try := &Try{throttle: t, source: source, tag: tag, decided: make(chan struct{})}
	o.enter(try)
	t.advance(o, now, settings)
	return try, Ban{}, nil
}

// isFull reports whether no more tries can wait.
func (o *offender) isFull(tag uint64) bool {
	return len(o.waiting) >= waitingTries && o.tries[tag] == nil
}

// wait is the second half of Begin: until the try begins, or another one's outcome
// is its own.
func (y *Try) wait(ctx context.Context) (*Try, Ban, error) {
	select {
	case <-y.decided:
	case <-ctx.Done():
		if y.leave() {
			return nil, Ban{}, ctx.Err()
		}
	}
	switch y.verdict {
	case verdictPass:
		return nil, Ban{}, nil
	case verdictRepeated:
		return nil, Ban{}, &Refusal{Reason: ReasonRepeated}
	case verdictBanned:
		return nil, Ban{}, &Refusal{Reason: ReasonBanned}
	case verdictGo:
	}
	return y, Ban{}, nil
}

// leave takes a try out that waits; false when it was decided meanwhile.
func (y *Try) leave() bool {
	s := y.throttle.shard(y.source)
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-y.decided:
		return false
	default:
	}
	o := s.sources[y.source] // there, as long as it has tries
	if lead := o.tries[y.tag]; lead != y {
		lead.joined = slices.DeleteFunc(lead.joined, func(other *Try) bool { return other == y })
		return true
	}
	i := slices.Index(o.waiting, y)
	if len(y.joined) == 0 {
		delete(o.tries, y.tag)
		o.waiting = slices.Delete(o.waiting, i, i+1)
		return true
	}
	o.waiting[i] = o.succeed(y)
	return true
}

// End tells how the check ended, counts a failure, and lets others go on. It
// returns the ban that the failure brought, for the caller to log; its zero
// value if there is none.
func (y *Try) End(outcome Outcome) Ban {
	if y == nil {
		return Ban{}
	}
	t := y.throttle
	settings := t.settings.Load()
	s := t.shard(y.source)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	o := t.offender(s, y.source, now, settings) // an operator may have lifted it
	o.flight--
	var ban Ban
	switch outcome {
	case Right:
		o.settle(y, verdictPass)
	case Wrong:
		if ban = t.count(y.source, o, y.tag, now, settings); o.banned(now, settings) {
			o.settle(y, verdictBanned)
		} else {
			o.settle(y, verdictRepeated)
		}
	case Undecided:
		if len(y.joined) == 0 {
			delete(o.tries, y.tag)
		} else {
			o.waiting = append([]*Try{o.succeed(y)}, o.waiting...)
		}
	}
	t.advance(o, now, settings)
	return ban
}

// enter makes a try wait: for the one with the same credentials, if there is
// one, else in line.
func (o *offender) enter(y *Try) {
	if lead := o.tries[y.tag]; lead != nil {
		lead.joined = append(lead.joined, y)
		return
	}
	if o.tries == nil {
		o.tries = map[uint64]*Try{}
	}
	o.tries[y.tag] = y
	o.waiting = append(o.waiting, y)
}

// succeed puts the first of those that joined a try in its place.
func (o *offender) succeed(y *Try) *Try {
	next := y.joined[0]
	next.joined, y.joined = y.joined[1:], nil
	o.tries[y.tag] = next
	return next
}

// settle ends a try, and those that joined it by a verdict.
func (o *offender) settle(y *Try, v verdict) {
	delete(o.tries, y.tag)
	for _, other := range y.joined {
		other.decide(v)
	}
	y.joined = nil
}

// failures is how many the source has within the window.
func (y *Try) failures() int {
	if y == nil {
		return 0
	}
	s := y.throttle.shard(y.source)
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.sources[y.source]; o != nil {
		return o.recent(time.Now(), y.throttle.settings.Load())
	}
	return 0
}

func (y *Try) decide(v verdict) {
	y.verdict = v
	close(y.decided)
}

// advance lets as many of the waiting go on as the allowance carries.
func (t *Throttle) advance(o *offender, now time.Time, settings *throttleSettings) {
	for len(o.waiting) > 0 {
		next := o.waiting[0]
		switch {
		case o.repeats(next.tag, now):
			o.settle(next, verdictRepeated)
			next.decide(verdictRepeated)
		case o.banned(now, settings), o.flight == 0 && o.recent(now, settings) >= settings.Max:
			// The latter by a reload with a lower maximum.
			o.settle(next, verdictBanned)
			next.decide(verdictBanned)
		case o.flight+o.recent(now, settings) < settings.Max:
			o.flight++
			next.decide(verdictGo)
		default:
			return
		}
		o.waiting = o.waiting[1:]
	}
	o.waiting = nil
}
