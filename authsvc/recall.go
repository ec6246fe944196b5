package authsvc

import (
	"errors"
	"net/netip"
	"time"

	"cleversocks/conn/netaddr"
)

// errWaits is the answer of those who have to wait, or to work, for a better one.
var errWaits = errors.New("this takes time to find out")

// recaller is an Authenticator that knows some answers without waiting.
type recaller interface {
	// recall is Authenticate, or errWaits at once where that takes time.
	recall(a *Attempt) (Grant, error)
}

// Recall is Verify for whoever must not wait, a reactor for instance. It decides,
// with the same counts and in the same order, what is known by heart: that a
// password is right which was right a while ago, or is a plain one; that a user id
// is somebody's. Such a success costs no goroutine and, without auth-once and
// parameters, no memory.
//
// decided is false for all else, wrong credentials among it. The attempt has its
// place in the line of its source then: Verify has to follow, or Abandon.
func (a *Admission) Recall(try *Attempt) (grant Grant, decided bool, err error) {
	given := try.Credentials
	var parameters Parameters
	try.Credentials, parameters = withoutParameters(given, a.parameters)
	ask := func() bool {
		grant, err = a.ask(try, func(one Authenticator) (Grant, error) {
			if r, ok := one.(recaller); ok {
				return r.recall(try)
			}
			return Grant{}, errWaits
		})
		return err == nil || try.Optional && !errors.Is(err, errWaits) // whose refusals nobody counts
	}
	if !a.counted(try) {
		decided = ask()
	} else {
		decided, try.line = a.throttle.recall(try.counted(), func() uint64 { return a.tag(try.Credentials) }, ask)
	}
	if !decided {
		try.Credentials, try.recalled = given, true
		return Grant{}, false, nil
	}
	if err != nil {
		return Grant{}, true, err
	}
	return a.granted(try, grant, parameters), true, nil
}

// Abandon gives up what Recall has not decided, where Verify does not follow.
func (try *Attempt) Abandon() {
	line := try.line
	if try.line = nil; line == nil || line.leave() {
		return
	}
	if line.verdict == verdictGo {
		line.End(Undecided)
	}
}

// recall asks whether credentials are known to be right, where a try with them
// could begin now: a source that sends a thousand guesses at once must not have
// all of them looked up. If they are not known, the try gets in line, or begins; it
// is nil where that is for Begin to do. known is called at most once, and must not
// wait.
func (t *Throttle) recall(addr netip.Addr, tag func() uint64, known func() bool) (isKnown bool, try *Try) {
	settings := t.settings.Load()
	if settings.Max <= 0 || settings.exempt.Contains(addr) {
		return known(), nil
	}
	source := netaddr.SourceKey(addr)
	s := t.shard(source)
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	o := s.sources[source]
	if (o == nil || o.begins(tag, now, settings)) && known() {
		return true, nil
	}
	if o != nil && o.isFull(tag()) {
		return false, nil
	}
	try, _, _ = t.enter(s, source, tag(), now, settings) // which is not full
	return false, try
}

// begins reports whether a try with such credentials would begin at once.
func (o *offender) begins(tag func() uint64, now time.Time, settings *throttleSettings) bool {
	if o.banned(now, settings) {
		return false
	}
	if !o.busy() && len(o.failures) == 0 {
		return true // nearly always, without the tag
	}
	t := tag()
	return len(o.waiting) == 0 && o.tries[t] == nil && !o.repeats(t, now) && o.flight+o.recent(now, settings) < settings.Max
}
