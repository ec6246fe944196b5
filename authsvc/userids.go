package authsvc

import (
	"context"
	"net/netip"
)

// UserIDs lets SOCKS4 clients in as the user whose name they give, if that
// user has no password. Nothing proves the name.
type UserIDs struct{ users *Users }

// NewUserIDs makes the authenticator of these users.
func NewUserIDs(users *Users) UserIDs { return UserIDs{users} }

// Method is MethodSOCKS4.
func (UserIDs) Method() Method { return MethodSOCKS4 }

// Accepts SOCKS4 user ids.
func (UserIDs) Accepts(k Kind) bool { return k == KindUserID }

// Authenticate looks the name up.
func (i UserIDs) Authenticate(_ context.Context, a *Attempt) (Grant, error) { return i.recall(a) }

func (i UserIDs) recall(a *Attempt) (Grant, error) {
	id, err := i.Holds(Identity{User: a.Credentials.Name(), Method: MethodSOCKS4}, a.Source)
	if err != nil {
		return Grant{}, err
	}
	return Grant{Identity: id}, nil
}

// Holds refuses a user who is gone, has a password now, or may not come from
// there.
func (i UserIDs) Holds(id Identity, source netip.Addr) (Identity, error) {
	entry := i.users.byName[id.User]
	if entry == nil {
		return Identity{}, ErrCredentials
	}
	now := entry.identity(id.Method)
	if entry.secret != nil || !entry.AllowsFrom(source) {
		return now, ErrCredentials
	}
	return now, nil
}
