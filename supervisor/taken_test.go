package supervisor

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"cleversocks/supervisor/config"
)

// check said nothing of a port that another program has. It warns, for that
// program may be the daemon with these settings: where all of its addresses are
// in use, that is taken for granted.
func TestTaken(t *testing.T) {
	listen := func() config.ListenAddress {
		var lc net.ListenConfig
		l, err := lc.Listen(context.Background(), "tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return config.ListenAddress{AddrPort: netip.MustParseAddrPort(l.Addr().String())}
	}
	busy, admin := listen(), listen()
	free := config.ListenAddress{AddrPort: netip.MustParseAddrPort("127.0.0.1:1")}
	for name, tt := range map[string]struct {
		listener, admin config.ListenAddress
		want            string
	}{
		"one of two":          {busy, free, "listener[0].address: " + busy.String() + " is in use at the moment"},
		"one, and no other":   {busy, config.ListenAddress{}, "is in use"},
		"none":                {free, config.ListenAddress{}, ""},
		"all, by this daemon": {busy, admin, ""},
	} {
		cfg := &config.Config{Listeners: []config.Listener{{Address: tt.listener}}}
		cfg.Admin.Address.ListenAddress = tt.admin
		got := strings.Join(taken(cfg), "\n")
		if !strings.Contains(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
