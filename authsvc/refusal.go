package authsvc

// Refusal is why a client is not let in. The client is told of none but Busy
// and Unavailable, where its protocol has words for it: all others look the
// same from outside.
type Refusal struct {
	Reason Reason
	// Err says more, to the log alone; may be nil. It has no secret in it.
	Err error
}

// Reason is the kind of a Refusal. The values appear in logs and metrics.
type Reason string

// Why a client is not let in.
const (
	// ReasonCredentials: the user is unknown, the password wrong, or the
	// source not the user's.
	ReasonCredentials Reason = "credentials"
	// ReasonBusy: too many wait for their password to be checked.
	ReasonBusy Reason = "busy"
	// ReasonBanned: the source is banned, since its connection was opened.
	ReasonBanned Reason = "banned"
	// ReasonRepeated: the source has given the same wrong credentials less
	// than a minute ago.
	ReasonRepeated Reason = "repeated"
	// ReasonUnavailable: what knows the answer cannot be asked now.
	ReasonUnavailable Reason = "unavailable"
	// ReasonMalformed: the token is none.
	ReasonMalformed Reason = "malformed"
	// ReasonMechanism: the token is of NTLM, or of nothing.
	ReasonMechanism Reason = "mechanism"
	// ReasonTicket: the ticket is not one of ours, or not the client's.
	ReasonTicket Reason = "ticket"
	// ReasonService: the ticket is for another service or realm.
	ReasonService Reason = "service"
	// ReasonKey: the service's key was changed, here or at the KDC.
	ReasonKey Reason = "key"
	// ReasonExpired: the ticket is not valid any more.
	ReasonExpired Reason = "expired"
	// ReasonClock: the clocks of client and server differ too much.
	ReasonClock Reason = "clock_skew"
	// ReasonReplay: somebody sends again what a client has sent.
	ReasonReplay Reason = "replay"
	// ReasonLevel: the client insists on a protection that is not allowed.
	ReasonLevel Reason = "protection"
	// ReasonRequired: the client has to log in now, and has not.
	ReasonRequired Reason = "authentication"
	// ReasonDisabled, ReasonNotYet, ReasonOver, ReasonHours: the credentials
	// are right, and the user may not use the proxy: disabled, before
	// valid_from, past valid_until, outside of hours.
	ReasonDisabled Reason = "disabled"
	ReasonNotYet   Reason = "not_yet_valid"
	ReasonOver     Reason = "no_longer_valid"
	ReasonHours    Reason = "outside_hours"
	// ReasonUser: the user is gone, has another password, or may not come
	// from there any more.
	ReasonUser Reason = "user"
)

// The refusals that say no more than their reason, to compare with.
var (
	ErrCredentials = &Refusal{Reason: ReasonCredentials}
	ErrBusy        = &Refusal{Reason: ReasonBusy}
)

// Error is the reason as a sentence, and the detail.
func (r *Refusal) Error() string {
	text := map[Reason]string{ //nolint:gosec // sentences, not secrets
		ReasonCredentials: "wrong credentials",
		ReasonBusy:        "too many authentications in progress",
		ReasonBanned:      "the source is banned",
		ReasonRepeated:    "the same wrong credentials again",
		ReasonUnavailable: "authentication not possible now",
		ReasonRequired:    "authentication required",
		ReasonUser:        "the user is not let in any more",
		ReasonDisabled:    "the user is disabled",
		ReasonNotYet:      "the user is not valid yet",
		ReasonOver:        "the user is not valid any more",
		ReasonHours:       "the user may not come at this hour",
	}[r.Reason]
	if text == "" {
		text = "authentication refused: " + string(r.Reason)
	}
	if r.Err != nil {
		text += ": " + r.Err.Error()
	}
	return text
}

// guess reports whether the attempt may have been somebody who tries
// passwords, and counts towards a ban.
//
// An expired ticket, a clock that is wrong, a service under another name: a
// client of good will does all of these, again and again.
func (r *Refusal) guess() bool {
	switch r.Reason {
	case ReasonCredentials, ReasonBusy, ReasonMalformed, ReasonTicket, ReasonReplay:
		return true
	default:
		return false
	}
}

// Unwrap is the detail.
func (r *Refusal) Unwrap() error { return r.Err }

// Is reports whether target is a refusal for the same reason.
func (r *Refusal) Is(target error) bool {
	t, ok := target.(*Refusal)
	return ok && t.Reason == r.Reason
}
