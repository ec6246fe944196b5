package supervisor

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"

	"cleversocks/supervisor/config"
)

// TestStuckReload: settings on a file system that hangs made SIGTERM hang,
// since the tree waited for the reloader as long as for the longest drain.
func TestStuckReload(t *testing.T) {
	reading, never := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(never) })
	log := slog.New(slog.DiscardHandler)
	r := &reloader{log: log, notify: &notifier{log: log}, upgrader: &upgrader{predecessors: &predecessors{}}, signals: make(chan struct{}, 1), ended: make(chan struct{}), load: func() (*config.Config, error) {
		close(reading)
		<-never
		return nil, context.Canceled
	}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Serve(ctx) }()
	r.signal()
	<-reading
	cancel()
	<-ended
}

// TestNeedRestart: the comparison was with the last file. Taking a change back
// was called one, and a change was named once alone.
func TestNeedRestart(t *testing.T) {
	at := func(address string) *config.Config {
		c := &config.Config{}
		c.Admin.Address.AddrPort = netip.MustParseAddrPort(address)
		return c
	}
	started := at("127.0.0.1:9180")
	for range 2 {
		if keys := needRestart(started, at("127.0.0.1:9181")); len(keys) != 1 || keys[0] != "admin.address" {
			t.Errorf("changed: %q", keys)
		}
	}
	if keys := needRestart(started, at("127.0.0.1:9180")); len(keys) != 0 {
		t.Errorf("taken back: %q", keys)
	}
}
