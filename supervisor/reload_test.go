package supervisor

import (
	"context"
	"log/slog"
	"testing"

	"cleversocks/supervisor/config"
)

// TestStuckReload: settings on a file system that hangs made SIGTERM hang,
// since the tree waited for the reloader as long as for the longest drain.
func TestStuckReload(t *testing.T) {
	reading, never := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(never) })
	r := newReloader(&daemon{log: slog.New(slog.DiscardHandler), options: Options{Load: func() (*config.Config, error) {
		close(reading)
		<-never
		return nil, context.Canceled
	}}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Serve(ctx) }()
	r.request()
	<-reading
	cancel()
	<-ended
}
