package authsvc

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"cleversocks/metrics"
)

// Admission is everything that one generation of the settings says of who may
// come in: the ways to log in, in the order in which they are asked, the
// addresses that need none of them, and what a failure costs. It is made
// once, by NewAdmission, and never changes.
type Admission struct {
	required   bool
	whitelist  *Whitelist
	once       *Once
	list       []Authenticator
	accounts   func(name string) *Account
	out        func(name string) bool
	parameters string
	throttle   *Throttle
	log        *slog.Logger
	outcomes   metrics.CounterVec2 // by method and outcome
	refused    metrics.CounterVec2 // by method and reason
	seed       maphash.Seed        // of the tags of credentials; new with each reload, which may make wrong ones right
}

// AdmissionOptions is what an Admission is made of.
type AdmissionOptions struct {
	Required  bool       // refuses clients that nothing lets in
	Whitelist *Whitelist // nil: nobody is on it
	Once      *Once      // nil: off. It outlives the generation
	// Authenticators are the ways to log in. Each that accepts a kind of
	// credentials is asked in turn, until one knows them.
	Authenticators []Authenticator
	// Accounts finds the settings of a user that an authenticator vouches for;
	// nil: nobody has any.
	Accounts func(name string) *Account
	// Before is the generation before, where the accounts alone are others: the
	// wrong credentials that sources have tried are known still, but for those
	// of users who have another password now. Nil: all are forgotten.
	Before *Admission
	// Out says that another replica's settings have disabled a user; nil: there
	// are no others.
	Out func(name string) bool
	// Parameters separates a user's name from parameters; "": there are none.
	Parameters string
	Throttle   *Throttle    // bans; nil: nobody is banned
	Log        *slog.Logger // failures, for fail2ban; nil: nowhere
	Outcomes   metrics.CounterVec2
	Refused    metrics.CounterVec2
}

// NewAdmission makes an Admission.
func NewAdmission(o AdmissionOptions) *Admission {
	a := &Admission{
		required: o.Required, whitelist: o.Whitelist, once: o.Once, list: slices.Clone(o.Authenticators),
		accounts: o.Accounts, out: o.Out, parameters: o.Parameters, throttle: o.Throttle, log: o.Log, outcomes: o.Outcomes, refused: o.Refused, seed: maphash.MakeSeed(),
	}
	if a.accounts == nil {
		a.accounts = func(string) *Account { return nil }
	}
	if o.Before != nil {
		a.seed = o.Before.seed
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	return a
}

// Describe is what the ways to log in say of themselves, a line each, for
// `explain`.
func (a *Admission) Describe() (lines []string) {
	for _, one := range a.list {
		if d, ok := one.(interface{ Describe() []string }); ok {
			lines = append(lines, d.Describe()...)
		}
	}
	return lines
}

// UserOf is the user that a principal of Kerberos is here; false where names are
// not principals.
func (a *Admission) UserOf(principal string) (user string, ok bool) {
	for _, one := range a.list {
		if m, maps := one.(interface{ UserOf(string) (string, bool) }); maps {
			return m.UserOf(principal)
		}
	}
	return "", false
}

// Required reports whether clients that nothing lets in are refused.
func (a *Admission) Required() bool { return a.required }

// Accepts reports whether any authenticator judges credentials of that kind.
func (a *Admission) Accepts(kind Kind) bool {
	return slices.ContainsFunc(a.list, func(one Authenticator) bool { return one.Accepts(kind) })
}

// Verify judges an attempt to log in, counts it, and logs a failure and the
// ban that it may bring. With auth-once the address is let in before it
// returns, and so before the client hears of its success: its next connection
// may be on the way then. The error is a *Refusal, or ctx's.
func (a *Admission) Verify(ctx context.Context, try *Attempt) (Grant, error) {
	if !try.recalled {
		if grant, decided, err := a.Recall(try); decided {
			return grant, err
		}
	}
	var parameters Parameters
	try.Credentials, parameters = withoutParameters(try.Credentials, a.parameters)
	grant, err := a.check(ctx, try)
	if err != nil {
		return Grant{}, err
	}
	return a.granted(try, grant, parameters), nil
}

// granted counts a success, and lets the address in where that is set.
func (a *Admission) granted(try *Attempt, grant Grant, parameters Parameters) Grant {
	id := &grant.Identity
	a.count(id.Method, outcomeOK)
	if a.once != nil && try.Source.IsValid() && try.Credentials.Kind() != KindUserID {
		a.once.Add(try.Source, *id)
	}
	id.Parameters = parameters
	return grant
}

// counted reports whether an attempt takes one of its source's tries.
func (a *Admission) counted(try *Attempt) bool {
	return a.throttle != nil && !try.Optional && try.counted().IsValid()
}

// check takes one of the source's tries before anything is looked up, unless
// Recall has, and tells how it ended.
func (a *Admission) check(ctx context.Context, try *Attempt) (Grant, error) {
	authenticate := func(one Authenticator) (Grant, error) { return one.Authenticate(ctx, try) }
	if !a.counted(try) {
		grant, err := a.ask(try, authenticate)
		if err != nil && !try.Optional {
			a.failed(ctx, try, err, Ban{})
		}
		return grant, err
	}
	flight, ban, err := a.begin(ctx, try)
	if err != nil {
		a.failed(ctx, try, err, ban)
		return Grant{}, err
	}
	outcome := Undecided
	ended := false
	defer func() {
		if !ended { // a panic: the tries of this source must go on
			flight.End(Undecided)
		}
	}()
	try.suspicion = flight.failures
	grant, err := a.ask(try, authenticate)
	refusal, refused := errors.AsType[*Refusal](err)
	switch {
	case err == nil:
		outcome = Right
	case refused && refusal.guess():
		outcome = Wrong
	}
	ban, ended = flight.End(outcome), true
	if err != nil {
		a.failed(ctx, try, err, ban)
	}
	return grant, err
}

// begin is one of the source's tries, as soon as it has one left.
func (a *Admission) begin(ctx context.Context, try *Attempt) (*Try, Ban, error) {
	if line := try.line; line != nil {
		try.line = nil
		return line.wait(ctx)
	}
	return a.throttle.Begin(ctx, try.counted(), a.tag(try.Credentials))
}

// tag stands for credentials among the tries of one source, for as long as
// their user has the same password.
func (a *Admission) tag(c Credentials) uint64 {
	tag := c.tag(a.seed)
	if account := a.accounts(c.Name()); account != nil {
		tag ^= account.stamp
	}
	return tag
}

// ask is the first grant of an authenticator that accepts such credentials, or
// what the last one says that knew more than that it does not know them.
func (a *Admission) ask(try *Attempt, authenticate func(Authenticator) (Grant, error)) (Grant, error) {
	var refused error = ErrCredentials
	for _, one := range a.list {
		if !one.Accepts(try.Credentials.Kind()) {
			continue
		}
		grant, err := authenticate(one)
		if err == nil {
			grant.Identity, err = a.withAccount(grant.Identity, try.Source)
		}
		if refusal := a.Lapsed(grant.Identity); err == nil && refusal != nil {
			err = refusal
		}
		switch {
		case err == nil:
			return grant, nil
		case !errors.Is(err, ErrCredentials):
			return Grant{}, err
		}
		refused = err
	}
	return Grant{}, refused
}

// Lapsed is the refusal of an identity, which came from here or from an earlier
// generation, whose user was removed or disabled since, or may not come at this
// time; nil when there is nothing of the kind.
func (a *Admission) Lapsed(id Identity) *Refusal {
	if id.User == "" || id.Account == nil && (id.Method == MethodNone || id.Method == MethodWhitelist) {
		return nil // a name that nobody vouches for
	}
	if id.Account != nil && id.Account.Removed() {
		return &Refusal{Reason: ReasonUser}
	}
	if a.out != nil && a.out(id.User) {
		return &Refusal{Reason: ReasonDisabled}
	}
	if account := cmp.Or(a.accounts(id.User), id.Account); account != nil {
		return account.Refuses(time.Now())
	}
	return nil
}

// withAccount gives a user whom Kerberos or a certificate vouches for what
// the settings say of a user of that name.
func (a *Admission) withAccount(id Identity, source netip.Addr) (Identity, error) {
	if id.Account != nil {
		return id, nil
	}
	account := a.accounts(id.User)
	if account == nil {
		return id, nil
	}
	if !account.AllowsFrom(source) {
		return Identity{}, ErrCredentials
	}
	id.Account = account
	groups := slices.Concat(id.Groups, account.Groups)
	slices.Sort(groups)
	id.Groups = slices.Compact(groups)
	return id, nil
}

// Refused counts and logs an attempt that was granted, and then refused for
// what the client wanted next. It counts towards no ban.
func (a *Admission) Refused(ctx context.Context, try *Attempt, err error) {
	a.failed(ctx, try, err, Ban{})
}

// failed counts a failure and logs it, for fail2ban too, and the ban that it
// brought. What may have been a guess is logged; that time was up says nothing
// of the password, and the same wrong one once more says nothing new.
func (a *Admission) failed(ctx context.Context, try *Attempt, err error, ban Ban) {
	method := Method(try.Credentials.Kind())
	refusal, refused := errors.AsType[*Refusal](err)
	if !refused || refusal.Reason == ReasonUnavailable {
		a.count(method, outcomeError)
		if refused {
			a.log.ErrorContext(ctx, "authentication not possible", slog.String("method", string(method)), slog.Any("err", refusal.Err))
		}
		return
	}
	a.count(method, outcomeFailed)
	if c := a.refused.Of(string(method), string(refusal.Reason)); c != nil {
		c.Inc()
	}
	switch {
	case refusal.Reason == ReasonRepeated, refusal.Reason == ReasonBanned:
	case !refusal.guess():
		// No line for fail2ban: a clock that is wrong guesses nothing.
		a.log.WarnContext(ctx, "authentication refused", slog.String("client", sourceName(try.counted())),
			slog.String("method", string(method)), slog.String("reason", string(refusal.Reason)), slog.Any("err", refusal.Err))
	default:
		LogFailure(ctx, a.log, try.counted(), []byte(try.Credentials.Name()), method, refusal.Reason)
		if refusal.Err != nil { // of a ticket, say; fail2ban's line has one form
			a.log.InfoContext(ctx, "authentication failed because", slog.String("client", sourceName(try.counted())),
				slog.String("method", string(method)), slog.String("reason", string(refusal.Reason)), slog.Any("err", refusal.Err))
		}
	}
	if !ban.Until.IsZero() {
		LogBan(ctx, a.log, ban)
	}
}

// The outcomes of an attempt, as the metric has them.
const (
	outcomeOK     = "ok"
	outcomeFailed = "failed"
	outcomeError  = "error" // it was not decided
)

func (a *Admission) count(method Method, outcome string) {
	if c := a.outcomes.Of(string(method), outcome); c != nil {
		c.Inc()
	}
}

// Holds is the identity of an open session as this generation sees it, with
// the groups of now. The error is a *Refusal when the session would not be
// let in any more; the identity is then what is still known of the user.
func (a *Admission) Holds(id Identity, source netip.Addr) (Identity, error) {
	switch id.Method {
	case MethodNone, MethodWhitelist:
		if a.required && !a.whitelist.Contains(source) {
			return id, &Refusal{Reason: ReasonRequired}
		}
		return id, nil
	case MethodOnce:
		if a.once == nil {
			return id, &Refusal{Reason: ReasonRequired}
		}
	default:
	}
	return a.holds(id, source)
}

// holds asks the authenticator that vouched for the user.
func (a *Admission) holds(id Identity, source netip.Addr) (Identity, error) {
	by := id.voucher()
	i := slices.IndexFunc(a.list, func(one Authenticator) bool { return one.Method() == by })
	if i < 0 {
		return Identity{}, &Refusal{Reason: ReasonUser}
	}
	now, err := a.list[i].Holds(id, source)
	if err == nil && now.Account == nil {
		now, err = a.withAccount(now, source)
		if err == nil && now.Account == nil && id.Account != nil {
			err = &Refusal{Reason: ReasonUser} // the limits that it was let in with are gone
		}
	}
	if err != nil {
		err = &Refusal{Reason: ReasonUser, Err: err}
	} else if refusal := a.Lapsed(now); refusal != nil {
		err = refusal
	}
	now.Method, now.By, now.Parameters = id.Method, by, id.Parameters
	return now, err
}

// Configured says which settings of [auth] are there, even if empty.
type Configured struct {
	User, UsersFile, NoPasswordFrom, Once, GSSAPI, ClientCA bool
}

// Required is auth.required = "auto": a proxy that was meant to ask never
// opens because a file or a list became empty.
func (c Configured) Required() bool {
	return c.User || c.UsersFile || c.NoPasswordFrom || c.Once || c.GSSAPI || c.ClientCA
}
