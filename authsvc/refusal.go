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
	// ReasonRequired: the client has to log in now, and has not.
	ReasonRequired Reason = "authentication"
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
	text := map[Reason]string{
		ReasonCredentials: "authentication failed",
		ReasonBusy:        "too many authentications in progress",
		ReasonBanned:      "the source is banned",
		ReasonRepeated:    "the same wrong credentials again",
		ReasonUnavailable: "authentication not possible now",
		ReasonRequired:    "authentication required",
		ReasonUser:        "the user is not let in any more",
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
func (r *Refusal) guess() bool { return r.Reason == ReasonCredentials || r.Reason == ReasonBusy }

// Unwrap is the detail.
func (r *Refusal) Unwrap() error { return r.Err }

// Is reports whether target is a refusal for the same reason.
func (r *Refusal) Is(target error) bool {
	t, ok := target.(*Refusal)
	return ok && t.Reason == r.Reason
}
