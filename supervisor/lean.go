package supervisor

import (
	"context"
	"log/slog"
	"runtime/debug"

	"github.com/thejerf/suture/v4"
)

// lean is a service that gives the memory of the start back, once. Reading the
// settings leaves several times as much garbage as the daemon keeps, which no
// collection would come for before there is traffic; and most of the program's
// pages that the start went through are not needed again.
type lean struct {
	log *slog.Logger
	// unmap lets go of the program's pages; see unmapProgram.
	unmap func() (bytes int64, err error)
}

// String names the service.
func (lean) String() string { return "memory" }

// Serve returns when it is done, and is not needed again.
func (l lean) Serve(ctx context.Context) error {
	debug.FreeOSMemory()
	bytes, err := l.unmap()
	if err != nil { // a kernel or a confinement that does not have it costs memory, and nothing else
		l.log.LogAttrs(ctx, slog.LevelDebug, "pages of the start stay mapped", slog.Any("err", err))
	}
	l.log.LogAttrs(ctx, slog.LevelDebug, "memory of the start given back", slog.Int64("unmapped", bytes))
	return suture.ErrDoNotRestart
}
