package authsvc

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cleversocks/metrics"
)

// voucher is an authenticator that believes any name: what Kerberos, a
// certificate or a directory is to Admission.
type voucher struct {
	method Method
	kind   Kind
	groups []string
	err    error
}

func (v voucher) Method() Method      { return v.method }
func (v voucher) Accepts(k Kind) bool { return k == v.kind }
func (v voucher) Authenticate(_ context.Context, a *Attempt) (Grant, error) {
	return Grant{Identity: Identity{User: a.Credentials.Name(), Groups: v.groups, Method: v.method}}, v.err
}
func (v voucher) Holds(id Identity, _ netip.Addr) (Identity, error) { return id, v.err }

var away = netip.MustParseAddr("198.51.100.1")

func admission(t *testing.T, o AdmissionOptions, users *Users) *Admission {
	t.Helper()
	o.Accounts = users.Account
	o.Outcomes = metrics.New().Conn.Auth
	return NewAdmission(o)
}

// A user whom something else vouches for takes the limits of the account of
// that name, if there is one, and its restrictions.
func TestVouchedUsersTakeTheirAccount(t *testing.T) {
	u := mixedUsers(t)
	for name, tt := range map[string]struct {
		credentials Credentials
		from        netip.Addr
		ok, account bool
	}{
		"a user id without a password":    {UserID("nopass"), away, true, true},
		"a user id with a password":       {UserID("arg"), away, false, false},
		"an unknown user id":              {UserID("eve"), away, false, false},
		"vouched for, unknown here":       {Password{User: []byte("someone@REALM")}, away, true, false},
		"vouched for, not from there":     {Password{User: []byte("alice")}, away, false, false},
		"vouched for, with its own limit": {Password{User: []byte("alice")}, home, true, true},
	} {
		a := admission(t, AdmissionOptions{Authenticators: []Authenticator{
			NewUserIDs(u), voucher{method: "ldap", kind: KindPassword, groups: []string{"outside"}},
		}}, u)
		grant, err := a.Verify(t.Context(), &Attempt{Credentials: tt.credentials, Source: tt.from})
		id := grant.Identity
		if (err == nil) != tt.ok || (id.Account != nil) != tt.account || tt.ok && id.User != tt.credentials.Name() {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
}

// The second way to log in is asked when the first does not know the user,
// and not when it could not decide.
func TestWaysAreAskedInTurn(t *testing.T) {
	u := mixedUsers(t)
	down := &Refusal{Reason: ReasonUnavailable, Err: errors.New("the directory is down")}
	for name, tt := range map[string]struct {
		first voucher
		want  error
	}{
		"unknown to the first": {voucher{method: "ldap", kind: KindPassword, err: ErrCredentials}, nil},
		"the first is down":    {voucher{method: "ldap", kind: KindPassword, err: down}, down},
		"not its kind":         {voucher{method: "gssapi", kind: KindToken, err: down}, nil},
	} {
		a := admission(t, AdmissionOptions{Authenticators: []Authenticator{tt.first, u}}, u)
		_, err := a.Verify(t.Context(), &Attempt{Credentials: Password{User: []byte("arg"), Password: []byte("one")}, Source: home})
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
}

// What auth-once let in is asked again at each connection, of whoever vouched
// for the user.
func TestFree(t *testing.T) {
	u := mixedUsers(t)
	table := NewOnce(OnceOptions{Max: 100, TTL: time.Hour}, StateOptions{Metrics: &metrics.New().Auth})
	for name, tt := range map[string]struct {
		entry OnceEntry
		ok    bool
	}{
		"by password":              {OnceEntry{User: "arg", By: MethodPassword, Addr: away}, true},
		"gone":                     {OnceEntry{User: "gone", By: MethodPassword, Addr: away}, false},
		"not from there any more":  {OnceEntry{User: "alice", By: MethodPassword, Addr: away}, false},
		"from there":               {OnceEntry{User: "alice", By: MethodPassword, Addr: home}, true},
		"by Kerberos":              {OnceEntry{User: "someone@REALM", By: MethodGSSAPI, Addr: away}, true},
		"by what is not there now": {OnceEntry{User: "someone", By: "ldap", Addr: away}, false},
	} {
		a := admission(t, AdmissionOptions{Required: true, Once: table, Authenticators: []Authenticator{u, voucher{method: MethodGSSAPI, kind: KindToken}}}, u)
		tt.entry.Until = time.Now().Add(time.Hour)
		table.insert(&tt.entry, nil)
		id, free := a.Free(tt.entry.Addr)
		if free != tt.ok || tt.ok && (id.User != tt.entry.User || id.Method != MethodOnce) {
			t.Errorf("%s: %+v, %v", name, id, free)
		}
	}
}

// A session that was open before a reload: is it still one that would be let in?
func TestHolds(t *testing.T) {
	old := newUsers(t, UsersOptions{Users: []UserEntry{
		{Account: Account{Name: "same", Groups: []string{"then"}}, PasswordHash: cheap("p", 8)},
		{Account: Account{Name: "changed"}, PasswordHash: cheap("p", 8)},
		{Account: Account{Name: "plain"}, Password: "p"},
		{Account: Account{Name: "plainly changed"}, Password: "p"},
		{Account: Account{Name: "gone"}, Password: "p"},
		{Account: Account{Name: "moved"}, Password: "p"},
	}, AllowPlain: true})
	now := newUsers(t, UsersOptions{Users: []UserEntry{
		{Account: Account{Name: "same", Groups: []string{"now"}}, PasswordHash: old.byName["same"].secret.phc()},
		{Account: Account{Name: "changed"}, PasswordHash: cheap("q", 8)},
		{Account: Account{Name: "plain"}, Password: "p"},
		{Account: Account{Name: "plainly changed"}, Password: "q"},
		{Account: Account{Name: "moved", From: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}, Password: "p"},
	}, AllowPlain: true})
	before := admission(t, AdmissionOptions{Required: true, Authenticators: []Authenticator{old}}, old)
	after := admission(t, AdmissionOptions{Required: true, Authenticators: []Authenticator{now}}, now)
	for user, holds := range map[string]bool{
		"same": true, "changed": false, "plain": true, "plainly changed": false, "gone": false, "moved": false,
	} {
		grant, err := before.Verify(t.Context(), &Attempt{Credentials: Password{User: []byte(user), Password: []byte("p")}, Source: home})
		if err != nil {
			t.Fatal(user, err)
		}
		id, err := after.Holds(grant.Identity, home)
		if (err == nil) != holds {
			t.Errorf("%s: %v", user, err)
		}
		if user == "same" && !cmp.Equal(id.Groups, []string{"now"}) {
			t.Errorf("groups %v, want those of now", id.Groups)
		}
		if refusal, ok := errors.AsType[*Refusal](err); !holds && (!ok || refusal.Reason != ReasonUser) {
			t.Errorf("%s: %v", user, err)
		}
	}
	if _, err := after.Holds(Identity{Method: MethodNone}, home); !errors.Is(err, &Refusal{Reason: ReasonRequired}) {
		t.Errorf("nobody has to log in any more: %v", err)
	}
}
