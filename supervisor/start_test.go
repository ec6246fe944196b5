package supervisor

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cleversocks/supervisor/config"
)

// atReady calls f with the last line of a start, when connections are accepted.
type atReady struct {
	slog.Handler
	f func()
}

func (h atReady) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "ready" {
		h.f()
	}
	return h.Handler.Handle(ctx, r)
}

func (h atReady) Enabled(context.Context, slog.Level) bool { return true }
func (h atReady) WithAttrs([]slog.Attr) slog.Handler       { return h }

// A stop signal between the first connection and the end of the start ended the
// process with it, and reset who had come: to a busy daemon that is long.
func TestStopAtTheEndOfTheStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	write(t, path, unconfined+"[[listener]]\naddress = '127.0.0.1:0'\n") // another program may have the default's port
	loader := config.NewLoader(config.Sources{File: path})
	signals := make(chan os.Signal)
	var heard atomic.Bool
	log := slog.New(atReady{slog.DiscardHandler, func() {
		select {
		case signals <- syscall.SIGTERM:
			heard.Store(true)
		case <-time.After(10 * time.Second):
		}
	}})
	o := Options{
		Logger: log, Access: slog.New(slog.DiscardHandler),
		Load:       func() (*config.Config, error) { return loader.Load(t.Context()) },
		PrepareLog: func(config.Log) (LogChange, error) { return noLog{}, nil },
		LostLog:    func() uint64 { return 0 },
	}
	d, early, err := startUnless(t.Context(), o, signals)
	if err != nil || early != syscall.SIGTERM || !heard.Load() {
		t.Fatalf("%v, %v", early, err)
	}
	if err := d.stop(t.Context(), signals, time.Now()); err != nil {
		t.Error(err)
	}
}
