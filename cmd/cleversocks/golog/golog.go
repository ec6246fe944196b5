// Package golog takes what libraries say through Go's own log package and makes
// it lines of our log: a JSON log must hold nothing but JSON.
//
//	defer golog.To(ctx, logger)()
//
// Some of them speak before main. Go initialises packages in the order of their
// paths as soon as their imports are ready, so this one, which imports next to
// nothing, comes before whatever could speak; a test of the built program holds
// that.
package golog

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"os"
	"sync"
)

// maxEarly bounds what is kept until there is a logger, in lines.
const maxEarly = 64

// capture is what Go's log writes to.
type capture struct {
	mu    sync.Mutex
	early [][]byte
	to    *slog.Logger
}

var captured capture

func init() {
	log.SetFlags(0)
	log.SetOutput(&captured)
}

// Write takes one entry of Go's log.
func (c *capture) Write(entry []byte) (int, error) {
	c.mu.Lock()
	to := c.to
	if to == nil && len(c.early) < maxEarly {
		c.early = append(c.early, bytes.Clone(entry))
	}
	c.mu.Unlock()
	if to != nil {
		say(context.Background(), to, slog.LevelWarn, entry)
	}
	return len(entry), nil
}

// To passes on to a logger what is said from now on, as warnings, and what was
// said before, which is about a library's own start, at debug. The function
// that it returns has what comes then written to standard error.
func To(ctx context.Context, logger *slog.Logger) (end func()) {
	captured.mu.Lock()
	early := captured.early
	captured.early, captured.to = nil, logger
	captured.mu.Unlock()
	for _, entry := range early {
		say(ctx, logger, slog.LevelDebug, entry)
	}
	return func() { log.SetOutput(os.Stderr) }
}

func say(ctx context.Context, to *slog.Logger, level slog.Level, entry []byte) {
	to.LogAttrs(ctx, level, "a library says", slog.String("text", string(bytes.TrimSpace(entry))))
}
