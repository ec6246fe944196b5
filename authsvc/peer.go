package authsvc

import (
	"context"
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"slices"
)

// Peer is a local user at the other end of a unix socket, as the kernel tells:
// nobody can pretend to be another.
type Peer struct {
	UID  uint32
	User string // whom the settings know by that id
}

// Kind is KindPeer.
func (Peer) Kind() Kind { return KindPeer }

// Name is the user that the settings name.
func (p Peer) Name() string { return p.User }

func (p Peer) tag(seed maphash.Seed) uint64 {
	return tagOf(seed, KindPeer, binary.BigEndian.AppendUint32(nil, p.UID))
}

// Peers lets in the local users whom the settings name.
type Peers struct {
	users *Users
	named []string // sorted
}

// NewPeers makes the authenticator. Named are the users of every unix socket.
func NewPeers(users *Users, named []string) Peers {
	return Peers{users: users, named: slices.Sorted(slices.Values(named))}
}

// Method is MethodPeer.
func (Peers) Method() Method { return MethodPeer }

// Accepts reports whether it is a local user.
func (Peers) Accepts(k Kind) bool { return k == KindPeer }

// Authenticate is the user. Refused is one who may only come from some
// addresses: a unix socket is none of them.
func (p Peers) Authenticate(_ context.Context, a *Attempt) (Grant, error) {
	peer, ok := a.Credentials.(Peer)
	if !ok {
		return Grant{}, ErrCredentials
	}
	id, err := p.Holds(Identity{User: peer.User, Method: MethodPeer}, a.Source)
	return Grant{Identity: id}, err
}

// Holds refuses a user whom no unix socket knows any more, or who may not come
// from there.
func (p Peers) Holds(id Identity, source netip.Addr) (Identity, error) {
	account := p.users.Account(id.User)
	now := Identity{User: id.User, Method: id.Method, Account: account}
	if account != nil {
		now.Groups = account.Groups
	}
	_, known := slices.BinarySearch(p.named, id.User)
	if !known || account != nil && !account.AllowsFrom(source) {
		return now, ErrCredentials
	}
	return now, nil
}
