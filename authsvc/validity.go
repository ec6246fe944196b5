package authsvc

import (
	"fmt"
	"slices"
	"time"
)

// Validity is when a user may use the proxy. The zero value is always.
type Validity struct {
	Disabled    bool
	From, Until time.Time // zero: no bound; Until itself is outside
	Hours       []Hours   // of the week, one of them is enough; empty: all
}

// timed reports whether time alone changes the answer of refuses.
func (v *Validity) timed() bool { return !v.From.IsZero() || !v.Until.IsZero() || len(v.Hours) > 0 }

// refuses is why the user may not use the proxy at now; "" when the user may.
func (v *Validity) refuses(now time.Time) Reason {
	switch {
	case v.Disabled:
		return ReasonDisabled
	case now.Before(v.From):
		return ReasonNotYet
	case !v.Until.IsZero() && !now.Before(v.Until):
		return ReasonOver
	case len(v.Hours) > 0 && !slices.ContainsFunc(v.Hours, func(h Hours) bool { return h.Contains(now) }):
		return ReasonHours
	}
	return ""
}

// next is the first moment after now at which refuses may answer otherwise; the
// zero time: there is none.
func (v *Validity) next(now time.Time) (first time.Time) {
	consider := func(t time.Time) {
		if t.After(now) && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	consider(v.From)
	consider(v.Until)
	for _, h := range v.Hours {
		consider(h.next(now))
	}
	return first
}

// Refuses is the refusal of a user who may not use the proxy at now: disabled,
// or not at this time. Nil when the user may. It says nothing of a password.
func (a *Account) Refuses(now time.Time) *Refusal {
	reason := a.Validity.refuses(now)
	if reason == "" {
		return nil
	}
	return &Refusal{Reason: reason, Err: fmt.Errorf("user %q", a.Name)}
}

// NextChange is the first moment after now at which time alone lets a user in
// or out. timed is false when no user's settings have a time.
func (u *Users) NextChange(now time.Time) (first time.Time, timed bool) {
	for _, a := range u.timed {
		if t := a.Validity.next(now); !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first, len(u.timed) > 0
}
