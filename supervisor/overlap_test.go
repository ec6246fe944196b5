package supervisor

import "testing"

// "0.0.0.0:1080" beside "[::1]:1080", IPv4 for everybody and IPv6 for this host, was
// refused: all addresses of one family were taken for all of both.
func TestOverlap(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1:1080", "127.0.0.1:1080", true},
		{"127.0.0.1:1080", "127.0.0.2:1080", false},
		{"127.0.0.1:1080", "[::1]:1080", false},
		{"0.0.0.0:1080", "127.0.0.1:1080", true},
		{"0.0.0.0:1080", "[::1]:1080", false},
		{"0.0.0.0:1080", "[::]:1080", true},
		{"0.0.0.0:1080", "[::ffff:127.0.0.1]:1080", true},
		{"[::]:1080", "127.0.0.1:1080", true},
		{"[::]:1080", "[::1]:1080", true},
		{"[fe80::1%eth0]:1080", "[fe80::1%eth1]:1080", false},
		{"0.0.0.0:1080", "127.0.0.1:1081", false},
		{"0.0.0.0:0", "127.0.0.1:0", false},
		{"unix:/run/a", "unix:/run/a", false}, // found by their paths
	} {
		if overlap(tt.a, tt.b) != tt.want || overlap(tt.b, tt.a) != tt.want {
			t.Errorf("%s and %s: not %v", tt.a, tt.b, tt.want)
		}
	}
}
