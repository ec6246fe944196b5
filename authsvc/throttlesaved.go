package authsvc

// What a Throttle saves, and passes to a successor.

import (
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"cleversocks/conn/netaddr"
)

type savedBan struct {
	Source netip.Addr `json:"source"`
	Since  time.Time  `json:"since"`
	Until  time.Time  `json:"until"`
	Level  int        `json:"level"`
	// Failures are those that bring the next ban. A successor gets them; the
	// file has none.
	Failures []savedFailure `json:"failures,omitempty"`
}

type savedFailure struct {
	At  time.Time `json:"at"`
	Tag uint64    `json:"tag"` // of no use to others, and tells one failure from another
}

// saved is also the bans that are over and still count towards the next.
func (t *Throttle) saved() []savedBan {
	return t.collect(func(o *offender) bool { return !o.until.IsZero() }, false)
}

// passed is saved with the failures, for a successor.
func (t *Throttle) passed() []savedBan {
	return t.collect(func(o *offender) bool { return !o.until.IsZero() || len(o.failures) > 0 }, true)
}

func (t *Throttle) collect(wanted func(*offender) bool, failures bool) []savedBan {
	out := []savedBan{}
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for key, o := range s.sources {
			if !wanted(o) {
				continue
			}
			b := savedBan{Source: key, Since: o.since, Until: o.until, Level: o.level}
			if failures {
				for _, f := range o.failures {
					b.Failures = append(b.Failures, savedFailure{f.at.Round(0), f.tag})
				}
			}
			out = append(out, b)
		}
		s.mu.Unlock()
	}
	return out
}

// restore merges what was saved, or what a predecessor still counts: of two
// bans of a source the later one holds.
func (t *Throttle) restore(payload []byte) error {
	var list []savedBan
	if err := json.Unmarshal(payload, &list); err != nil {
		return err
	}
	now, settings := time.Now(), t.settings.Load()
	for _, b := range list {
		if !b.Source.IsValid() {
			continue
		}
		key := netaddr.SourceKey(b.Source)
		s := t.shard(key)
		s.mu.Lock()
		t.merge(s, key, b, now, settings)
		s.mu.Unlock()
	}
	return nil
}

// merge adds to what is known of a source, in a locked shard.
func (t *Throttle) merge(s *throttleShard, key netip.Addr, b savedBan, now time.Time, settings *throttleSettings) {
	news := &offender{level: min(max(b.Level, 0), 64), since: b.Since, until: b.Until}
	news.banned(now, settings) // cuts one that a wrong clock made
	lasts := !news.until.IsZero() && !news.forgotten(now, settings)
	o := s.sources[key]
	if o == nil {
		if !lasts && len(b.Failures) == 0 || len(s.sources) >= sourcesPerShard {
			return
		}
		o = &offender{}
		s.sources[key] = o
	}
	if lasts && news.until.After(o.until) {
		wasBanned := o.banned(now, settings)
		t.unban(o)
		o.since, o.until, o.level = news.since, news.until, max(o.level, news.level)
		t.bans.Add(1)
		t.file.dirty.Store(true)
		if now.Before(o.until) && !wasBanned {
			t.metrics.BansActive.Add(1)
		}
	}
	for _, f := range b.Failures {
		known := slices.ContainsFunc(o.failures, func(k failure) bool { return k.tag == f.Tag && k.at.Equal(f.At) })
		if !known && !f.At.After(now) && f.At.After(o.since) && !o.banned(now, settings) && len(o.failures) < maxFailures {
			o.failures = append(o.failures, failure{f.At, f.Tag})
		}
	}
	slices.SortFunc(o.failures, func(a, b failure) int { return a.at.Compare(b.at) })
	if settings.Max > 0 && !o.banned(now, settings) && o.recent(now, settings) >= settings.Max {
		t.ban(key, o, now, settings)
	}
}
