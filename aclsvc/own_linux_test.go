package aclsvc

import (
	"net/netip"
	"slices"
	"testing"
)

// TestLocalTable: loopback is in every kernel's local table, as a range, which
// the interfaces' addresses do not show.
func TestLocalTable(t *testing.T) {
	ranges, err := localRoutes()
	if err != nil {
		t.Fatal(err)
	}
	if want := netip.MustParsePrefix("127.0.0.0/8"); !slices.Contains(ranges, want) {
		t.Errorf("no %s in %v", want, ranges)
	}
	for _, r := range ranges {
		if r != r.Masked() {
			t.Errorf("%s has host bits", r)
		}
	}
}
