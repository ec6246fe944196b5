package shared

import (
	"context"
	"time"

	"cleversocks/aclsvc/ratelimit"
)

// ask asks for all that wait, and tells what was given back, until there is
// nothing more to say.
func (s *Store) ask(ctx context.Context, u *seat) {
	for round := 0; ; {
		u.mu.Lock()
		claims := u.current()
		if len(claims) == 0 {
			if !u.stale && len(u.doubts) == 0 {
				u.busy = false
				u.mu.Unlock()
				return
			}
			told, ended, ok := s.tell(ctx, u)
			unsure := ok && s.judge(u, told, ended)
			u.mu.Unlock()
			if unsure {
				s.publish(event{Kind: eventTighten, User: u.user})
				after(ctx, s.options.Timeout/2) // for the others to have told
			}
			continue
		}
		slack := s.askFor(ctx, u, claims)
		again := slack && (u.tightened == 0 || s.now()-u.tightened > time.Second)
		if !again {
			u.refuse(claims)
		}
		u.mu.Unlock()
		if !again {
			round = 0
			continue
		}
		if round == 0 {
			s.publish(event{Kind: eventTighten, User: u.user})
		}
		after(ctx, s.options.Timeout/20<<round) // for the others to have heard
		if round++; round == tightenRounds {
			u.mu.Lock()
			u.tightened = s.now()
			u.mu.Unlock()
			round = 0
		}
	}
}

// tightenRounds is how often a claim is asked for again while others become
// strict: 1, 2, 4, 8 of the 20 ms.
const tightenRounds = 4

// current are the claims that still wait.
func (u *seat) current() []*claim {
	live := u.waiting[:0]
	for _, c := range u.waiting {
		if !c.over {
			live = append(live, c)
		}
	}
	clear(u.waiting[len(live):])
	u.waiting = live
	return append([]*claim(nil), live...)
}

// refuse decides what was not granted.
func (u *seat) refuse(claims []*claim) {
	for _, c := range claims {
		if !c.over {
			c.decide(ratelimit.TooMany)
		}
	}
}

// asking is the two scripts' keys, and the arguments that both begin with. From
// here to the answer nobody may come by an older grant: the store would not
// hear of it.
func (s *Store) asking(u *seat) scriptCall {
	u.seq++
	u.stale, u.stored, u.said = false, true, u.lasting()
	u.granted = min(u.granted, u.said)
	floor, replicas := s.fleet.reckoned(u.most)
	return scriptCall{
		keys: []string{s.keys.conns(u.user), s.keys.addresses(u.user)},
		args: []string{s.id, itoa(u.seq), itoa(floor), itoa(replicas), itoa(u.most), ms(s.rhythm.lease), ms(s.rhythm.keyLife()), itoa(u.said)},
	}
}

// lasting is how many connections there are to stay.
func (u *seat) lasting() int { return max(u.held-u.ending, 0) }

// askFor asks for claims and tells those that may come, and those that may not
// for their addresses. slack: others could give the rest by being strict. The
// seat's lock is held before and after, not meanwhile.
func (s *Store) askFor(ctx context.Context, u *seat, claims []*claim) (slack bool) {
	call, sent := s.asking(u), s.now()
	call.args = append(call.args, itoa(u.wide))
	for _, c := range claims {
		source := ""
		if c.fresh {
			source = c.source.String()
		}
		call.args = append(call.args, source)
	}
	u.mu.Unlock()
	got, err := s.entered(ctx, call)
	u.mu.Lock()
	if err != nil {
		u.unheard(s.now())
		for _, c := range claims {
			switch {
			case c.over:
			case c.refused:
				c.decide(ratelimit.TooMany)
			default:
				c.decide(s.alone(u, c))
			}
		}
		return false
	}
	u.granted = got.granted
	for i, c := range claims[:min(len(claims), len(got.answers))] {
		switch {
		case got.answers[i] == 'y':
			u.said++
			if !c.over {
				u.take(c.source)
				c.decide(ratelimit.Admitted)
			} else if c.fresh {
				u.stale = true // the store has the address of one that did not wait
			}
		case got.answers[i] == 'a' && !c.over:
			c.decide(ratelimit.TooWide)
		default:
			c.refused = true
		}
	}
	u.noted(sent+s.rhythm.lease, got.beaten)
	return got.slack
}

// tell says what is held, and reports whether the store has taken it: of the first
// doubtful connections, as many as were told, it wants some ended, once the others were
// asked. The seat's lock is held before and after, not meanwhile.
func (s *Store) tell(ctx context.Context, u *seat) (doubts, ended int, ok bool) {
	u.forgetDoubts(s.now())
	doubts = len(u.doubts)
	may := 0
	if u.doubted {
		may = doubts
	}
	call, sent := s.telling(u, may), s.now()
	u.mu.Unlock()
	got, err := s.told(ctx, call)
	u.mu.Lock()
	if err != nil {
		u.unheard(s.now())
		if u.forgetDoubts(s.now()); s.health.isDown() || isStrange(err) {
			u.doubts = nil // nobody knows better
		}
		return 0, 0, false
	}
	ended = min(max(got.ended, 0), may) // whatever the store says
	u.ending += ended
	u.said -= ended
	u.noted(sent+s.rhythm.lease, got)
	return doubts, ended, true
}

// telling is the call that says what is held, and how many of these may be ended.
func (s *Store) telling(u *seat, doubts int) scriptCall {
	call := s.asking(u)
	call.args = append(call.args, itoa(doubts))
	if u.wide > 0 {
		for source := range u.sources {
			call.args = append(call.args, source.String())
		}
	}
	return call
}

// noted takes what each answer says, which holds until a time.
func (u *seat) noted(until time.Duration, got beaten) {
	u.answers++
	u.mute = 0
	u.until, u.others, u.strict = until, got.others, got.strict
	u.stored = got.strict || u.said > 0
	// Of a strict user the others need to know what is held, not what was.
	u.stale = u.stale || u.strict && u.said != u.lasting()
}

// unheard is a call without an answer.
func (u *seat) unheard(now time.Duration) {
	if u.mute == 0 {
		u.mute = max(now, 1)
	}
}

// doubt is a connection that was let in while the store was late.
type doubt struct {
	holder ratelimit.Holder
	since  time.Duration
}

// doubtLife is how long a connection may be ended for a late answer: who has been
// let in for good stays.
const doubtLife = time.Second

// forgetDoubts lets stay who has been in for doubtLife.
func (u *seat) forgetDoubts(now time.Duration) {
	for len(u.doubts) > 0 && now-u.doubts[0].since > doubtLife {
		u.doubts = u.doubts[1:]
	}
}

// judge ends as many of the doubtful connections that were told as the store has
// answered, which reckons with them no more: of replicas that were in doubt together,
// the next one to tell sees what is left. true: the others are to say first what they
// really hold, and then it is asked again. The seat's lock is held.
func (s *Store) judge(u *seat, told, surplus int) (again bool) {
	if !u.doubted && told > 0 && u.most > 0 && u.lasting()+u.others > u.most {
		u.doubted, u.stale = true, true
		return true
	}
	u.doubted = false
	ended := u.doubts[told-surplus : told]
	u.doubts = u.doubts[told:]
	if surplus > 0 {
		s.metrics.Surplus.Add(surplus)
		if !s.background(func(ctx context.Context) { s.endSurplus(ctx, u, ended) }) {
			u.ending = 0
		}
	}
	return false
}

// endSurplus ends connections, and sees to it that the store hears of those that have
// ended before: they were counted twice.
func (s *Store) endSurplus(ctx context.Context, u *seat, surplus []doubt) {
	for _, d := range surplus {
		d.holder.EndSurplus()
	}
	after(ctx, s.rhythm.beat)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ending > 0 && !u.gone {
		u.ending = 0
		s.tellSoon(u)
	}
}
