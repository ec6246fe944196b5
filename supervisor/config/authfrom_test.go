package config

import (
	"net/netip"
	"slices"
	"testing"

	"cleversocks/authsvc"
)

// The longest range counts, whatever its place in the list; an IPv4 client of a
// socket for both families is in the ranges of IPv4.
func TestAuthFrom(t *testing.T) {
	var l Listener
	for _, text := range []string{"10.0.0.0/8 = gssapi, password", "10.1.0.0/16=password", "2001:db8::/32 = gssapi"} {
		var r RangeLogins
		if err := r.UnmarshalText([]byte(text)); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		l.AuthFrom = append(l.AuthFrom, r)
	}
	of := l.KindsFrom()
	for client, want := range map[string][]authsvc.Kind{
		"10.2.0.1":        {authsvc.KindToken, authsvc.KindPassword},
		"::ffff:10.1.0.1": {authsvc.KindPassword},
		"2001:db8::1":     {authsvc.KindToken},
		"192.0.2.1":       nil,
	} {
		if got := of(netip.MustParseAddr(client)); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", client, got, want)
		}
	}
	for _, bad := range []string{"", "10.0.0.0/8", "10.0.0.0/8 =", "x = gssapi", "10.0.0.0/8 = ntlm", "10.0.0.0/8 = gssapi, gssapi"} {
		var r RangeLogins
		if r.UnmarshalText([]byte(bad)) == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
