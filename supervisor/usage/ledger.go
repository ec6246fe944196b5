package usage

import "time"

// ledger is what users have moved and was not told yet. The sum of a user's
// usage events is that of its sessions, each byte once, whether a session lasts
// for a second or for days.
type ledger struct {
	told    map[string][2]int64 // of sessions that go on, by id: bytes that are in totals already
	over    map[string]struct{} // sessions that have ended since the last but one settle
	older   map[string]struct{}
	missing map[string]struct{} // sessions that were neither listed nor ended at the last settle
	total   map[string][2]int64 // by user
	since   time.Time
}

func newLedger() ledger {
	return ledger{
		told: make(map[string][2]int64), over: make(map[string]struct{}), total: make(map[string][2]int64), since: time.Now(),
	}
}

// ended counts the last bytes of a session.
func (l *ledger) ended(s *Session) {
	l.count(s)
	delete(l.told, s.ID)
	l.over[s.ID] = struct{}{}
}

func (l *ledger) count(s *Session) {
	before, sum := l.told[s.ID], l.total[s.User]
	in, out := s.BytesIn-before[0], s.BytesOut-before[1]
	if in == 0 && out == 0 {
		return
	}
	l.total[s.User] = [2]int64{sum[0] + in, sum[1] + out}
	l.told[s.ID] = [2]int64{s.BytesIn, s.BytesOut}
}

// settle counts what sessions that go on have moved, and returns what each user
// has since the last time.
func (l *ledger) settle(now []Session, at time.Time) []used {
	here := make(map[string]struct{}, len(now))
	for i := range now {
		s := &now[i]
		here[s.ID] = struct{}{}
		_, over := l.over[s.ID]
		_, older := l.older[s.ID]
		if !over && !older { // one that has ended may still be listed
			l.count(s)
		}
	}
	missing := make(map[string]struct{})
	for id := range l.told {
		if _, lives := here[id]; lives {
			continue
		}
		if _, before := l.missing[id]; before { // its end was lost: the queue was full
			delete(l.told, id)
			continue
		}
		missing[id] = struct{}{}
	}
	l.missing = missing
	l.older, l.over = l.over, make(map[string]struct{})
	return l.take(at)
}

// take is what each user has moved since the last time. Of an association it may be
// less than was told: datagrams count when they come, and some cannot be sent. That is
// set off against what comes, for an endpoint that knows no bytes below zero.
func (l *ledger) take(at time.Time) (list []used) {
	for user, sum := range l.total {
		told := [2]int64{max(sum[0], 0), max(sum[1], 0)}
		if told != [2]int64{} {
			list = append(list, used{Name: user, Since: l.since.UTC(), BytesIn: told[0], BytesOut: told[1]})
		}
		if l.total[user] = [2]int64{sum[0] - told[0], sum[1] - told[1]}; told == sum {
			delete(l.total, user)
		}
	}
	l.since = at
	return list
}

// back takes an event that could not be stored.
func (l *ledger) back(u used) {
	sum := l.total[u.Name]
	l.total[u.Name] = [2]int64{sum[0] + u.BytesIn, sum[1] + u.BytesOut}
	if u.Since.Before(l.since) {
		l.since = u.Since
	}
}
