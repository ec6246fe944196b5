package tlsconf

import (
	"crypto/tls"
	"errors"
	"slices"
	"testing"
	"time"
)

func TestResumedSessionsAreRevokedToo(t *testing.T) {
	ca, clients, f := newAuthority(t, "ca"), newAuthority(t, "clients"), newFiles(t)
	f.put(t, ca.issue("proxy"))
	write(t, f.ca, certPEM(clients.cert.Raw))
	alice := clients.issue("alice")
	clients.revoke(f.crl)
	k := keeper()
	d := open(t, k, Options{Cert: f.cert, Key: f.key, ClientCA: f.ca, CRL: f.crl})
	c := clientConfig(ca)
	c.Certificates, c.ClientSessionCache = []tls.Certificate{alice}, tls.NewLRUClientSessionCache(4)
	for i := range 2 {
		state, _, server, there := handshake(t, d, c)
		if server != nil || there != nil {
			t.Fatal(server, there)
		}
		if resumed := i > 0; state.DidResume != resumed {
			t.Errorf("connection %d: resumed %v", i, state.DidResume)
		}
		if got := Names(state); !slices.Contains(got, "alice") {
			t.Errorf("connection %d: names %q", i, got)
		}
	}
	clients.revoke(f.crl, alice)
	k.look(t.Context())
	if _, _, server, _ := handshake(t, d, c); !errors.Is(server, ErrRevoked) {
		t.Errorf("a revoked client's ticket: %v", server)
	}
}

// Doors share tickets, also after their keys changed, and not when they trust
// other clients.
func TestTicketsBetweenDoors(t *testing.T) {
	ca, clients, f := newAuthority(t, "ca"), newAuthority(t, "clients"), newFiles(t)
	f.put(t, ca.issue("proxy"))
	write(t, f.ca, certPEM(clients.cert.Raw))
	k := keeper()
	one, two := open(t, k, Options{Cert: f.cert, Key: f.key}), open(t, k, Options{Cert: f.cert, Key: f.key})
	strict := open(t, k, Options{Cert: f.cert, Key: f.key, ClientCA: f.ca})
	c := clientConfig(ca)
	c.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	resumes := func(d *Door) bool {
		state, _, server, there := handshake(t, d, c)
		if server != nil || there != nil {
			t.Fatal(server, there)
		}
		return state.DidResume
	}
	if resumes(one) {
		t.Error("resumed from nothing")
	}
	if !resumes(two) {
		t.Error("a door does not know the other's ticket")
	}
	k.tickets.rotate()
	if !resumes(two) {
		t.Error("the key before the last one is not known any more")
	}
	k.tickets.rotate()
	k.tickets.rotate()
	if resumes(one) {
		t.Error("a ticket outlived its key")
	}
	if _, _, server, _ := handshake(t, strict, c); server == nil {
		t.Error("a ticket took the place of a client certificate")
	}
}

// A successor takes its predecessor's tickets and their age, or else keys would live
// for ever where upgrades are frequent; what is none of them changes nothing.
func TestTicketsOfAPredecessor(t *testing.T) {
	ca, f := newAuthority(t, "ca"), newFiles(t)
	f.put(t, ca.issue("proxy"))
	before, k := keeper(), keeper()
	c := clientConfig(ca)
	c.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	resumes := func(d *Door) bool {
		state, _, server, there := handshake(t, d, c)
		if server != nil || there != nil {
			t.Fatal(server, there)
		}
		return state.DidResume
	}
	before.tickets.rotate()
	before.tickets.since = time.Now().Add(-11 * time.Hour)
	resumes(open(t, before, Options{Cert: f.cert, Key: f.key}))
	after := open(t, k, Options{Cert: f.cert, Key: f.key})
	if err := k.TakeTickets(before.Tickets()); err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]Secret{nil, {{Key: []byte("short")}}, make([]Secret, 3)} {
		if k.TakeTickets(bad) == nil {
			t.Errorf("%v was taken", bad)
		}
	}
	if !resumes(after) {
		t.Error("a ticket of the predecessor's is not known")
	}
	if left := k.tickets.left(); left > time.Hour {
		t.Errorf("the key has %s more", left)
	}
}
