package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/lmittmann/tint"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"cleversocks/cmd/cleversocks/collector"
	"cleversocks/supervisor"
	"cleversocks/supervisor/config"
)

// levelTrace is below slog's debug. Other packages write it as
// slog.LevelDebug - 4.
const levelTrace = slog.LevelDebug - 4

// stderrOutput is the name of standard error in the settings.
const stderrOutput = "stderr"

// logs holds the two loggers, for events and for access records, and where
// they write. What they do changes with Prepare; loggers that were handed out,
// and those derived from them, follow. A write never blocks: see sink.
type logs struct {
	ctx            context.Context //nolint:containedctx // the life of collectors, which goes on where loggers have no context
	logger, access *swapHandler
	stderr         *sink
	colour         bool          // stderr is a terminal that likes colour
	level          slog.LevelVar // of logger

	lost    atomic.Uint64        // lines, of all outputs
	main    atomic.Pointer[sink] // where logger writes
	telling atomic.Bool          // begin is at it

	mu    sync.Mutex // guards files
	files map[string]*sink
}

// newLogs writes to stderr as the defaults say, until a change is committed. The caller
// closes it.
func newLogs(ctx context.Context, stderr io.Writer, environ []string) *logs {
	l := &logs{
		ctx:    ctx,
		logger: newSwapHandler(slog.DiscardHandler),
		access: newSwapHandler(slog.DiscardHandler),
		colour: isTerminal(stderr) && !noColour(environ),
		files:  make(map[string]*sink),
	}
	l.stderr = newSink(stderr, l)
	l.main.Store(l.stderr)
	l.logger.swap(l.handler("auto", l.stderr, slog.LevelInfo))
	l.access.swap(l.handler("auto", l.stderr, slog.LevelInfo))
	return l
}

// Logger is for everything but access records.
func (l *logs) Logger() *slog.Logger { return slog.New(l.logger) }

// Access is for access records, whatever the level of the log. Which of them
// there are is the matter of who makes them.
func (l *logs) Access() *slog.Logger { return slog.New(l.access) }

// Prepare opens the files that c names. On an error, which wraps
// config.ErrInvalid and names the key, nothing has changed.
func (l *logs) Prepare(c config.Log) (supervisor.LogChange, error) {
	opened := make(map[string]io.WriteCloser)
	collected, toCollector := c.Collector()
	for _, o := range []struct{ key, path string }{{"log.output", c.Output}, {"log.access_output", accessOutput(c)}} {
		if o.path == stderrOutput || opened[o.path] != nil {
			continue
		}
		if toCollector && o.path == accessOutput(c) {
			opened[o.path] = l.collector(collected, c.Format == "json")
			continue
		}
		f, err := openLog(o.path)
		if err != nil {
			closeAll(opened)
			return nil, fmt.Errorf("%w: %s: %q can't be opened for appending: %w", config.ErrInvalid, o.key, o.path, err)
		}
		opened[o.path] = f
	}
	return &logChange{of: l, settings: c, opened: opened}, nil
}

// logChange is settings of the log, with the files already open.
type logChange struct {
	of       *logs
	settings config.Log
	opened   map[string]io.WriteCloser // by path
}

// Rollback closes the files. The loggers write where they did.
func (c *logChange) Rollback() { closeAll(c.opened) }

// Commit makes the loggers as the settings say; the files of before are closed.
func (c *logChange) Commit() {
	l, s := c.of, c.settings
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.files
	l.files = make(map[string]*sink, len(c.opened))
	for path, f := range c.opened {
		if open := old[path]; open != nil {
			open.reopen(f)
			l.files[path] = open
			delete(old, path)
			continue
		}
		l.files[path] = newSink(f, l)
	}
	l.main.Store(l.sink(s.Output))
	l.level.Set(levelOf(s.Level))
	l.logger.swap(l.handler(s.Format, l.sink(s.Output), &l.level))
	l.access.swap(l.handler(accessFormat(s), l.sink(accessOutput(s)), slog.LevelInfo))
	for _, gone := range old {
		gone.close()
	}
}

// Close writes what is pending, within a bound, and ends the writers.
func (l *logs) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.files {
		s.close()
	}
	l.stderr.close() // last: it may have to say that the others failed
}

func (l *logs) sink(path string) *sink {
	if s := l.files[path]; s != nil {
		return s
	}
	return l.stderr
}

// handler is the one for a format.
func (l *logs) handler(format string, s *sink, level slog.Leveler) slog.Handler {
	switch {
	case format == "json":
		return slog.NewJSONHandler(jsonLines{s}, &slog.HandlerOptions{Level: level, ReplaceAttr: spell})
	case format == "auto" && s == l.stderr && l.colour:
		return tint.NewTextHandler(textLines{s}, &tint.Options{Level: level, ReplaceAttr: tintTrace})
	default:
		return slog.NewTextHandler(textLines{s}, &slog.HandlerOptions{Level: level, ReplaceAttr: nameTrace})
	}
}

// Lost is how many lines could not be written so far.
func (l *logs) Lost() uint64 { return l.lost.Load() }

func (l *logs) count(lines uint64) { l.lost.Add(lines) }

// begin says on another output that one has begun to lose lines: what is full
// now may stay so. Standard error has no other; access records have a reader
// who expects nothing else.
func (l *logs) begin(s *sink, why error) {
	// The other output may lose this very line: then there is nobody to tell,
	// and the handler that we came from is locked.
	if !l.telling.CompareAndSwap(false, true) {
		return
	}
	defer l.telling.Store(false)
	logger := l.Logger()
	if s == l.main.Load() {
		logger = slog.New(l.handler("auto", l.stderr, slog.LevelWarn))
	}
	if s != l.stderr || s != l.main.Load() {
		logger.Warn("log lines are being lost", "err", why)
	}
}

// end says how many lines could not be written, once writing works.
func (l *logs) end(lines uint64) {
	l.Logger().Warn("log lines were lost", "lines", lines)
}

// accessOutput names where access records go: a file's path, or a collector's
// setting, with the format that it was made for.
func accessOutput(c config.Log) string {
	if _, ok := c.Collector(); ok {
		return c.AccessOutput + " " + c.Format
	}
	return cmp.Or(c.AccessOutput, c.Output)
}

// accessFormat is the format of access records' lines: journald's fields are
// made of JSON.
func accessFormat(c config.Log) string {
	if collected, ok := c.Collector(); ok && collected.Journald {
		return "json"
	}
	return c.Format
}

// collector makes what sends access records to where a setting says.
func (l *logs) collector(c config.Collector, json bool) *collector.Collector {
	return collector.New(l.ctx, collector.Options{
		Network: c.Network, Address: c.Address, Journald: c.Journald, Facility: c.Facility, Old: c.Old, JSON: json, Log: l.Logger(),
	})
}

// openLog opens a file for appending. Not blocking: a named pipe that nobody
// reads is an error instead of a daemon that hangs.
// Standard output is opened once more, so that it can be closed as a file is.
func openLog(path string) (*os.File, error) {
	if path == config.LogStdout {
		fd, err := unix.FcntlInt(os.Stdout.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("dup", err)
		}
		return os.NewFile(uintptr(fd), config.LogStdout), nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NONBLOCK, 0o640) //nolint:gosec // the operator names the file
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, pe.Err
	}
	return f, err
}

func closeAll(files map[string]io.WriteCloser) {
	for _, f := range files {
		_ = f.Close() // nothing was written
	}
}

// Level is the log's level, by its name in the settings.
func (l *logs) Level() string {
	level := l.level.Level()
	if level <= levelTrace {
		return "trace"
	}
	return strings.ToLower(level.String())
}

// SetLevel changes the log's level until the next reload. It reports false for
// a name that is none.
func (l *logs) SetLevel(name string) bool {
	if !slices.Contains([]string{"error", "warn", "info", "debug", "trace"}, name) {
		return false
	}
	l.level.Set(levelOf(name))
	return true
}

func levelOf(name string) slog.Level {
	switch name {
	case "error":
		return slog.LevelError
	case "warn":
		return slog.LevelWarn
	case "debug":
		return slog.LevelDebug
	case "trace":
		return levelTrace
	default:
		return slog.LevelInfo
	}
}

// nameTrace writes TRACE where slog would write DEBUG-4.
func nameTrace(groups []string, a slog.Attr) slog.Attr {
	if isTrace(groups, a) {
		return slog.String(a.Key, "TRACE")
	}
	return a
}

// spell is nameTrace, and writes a time with its unit, as the text does, where slog
// would write nanoseconds without a word about it.
func spell(groups []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.String(a.Key, a.Value.Duration().String())
	}
	return nameTrace(groups, a)
}

// tintTrace is nameTrace with tint's three letters, and tintSafe.
func tintTrace(groups []string, a slog.Attr) slog.Attr {
	if isTrace(groups, a) {
		const grey = 8
		return tint.Attr(grey, slog.String(a.Key, "TRC"))
	}
	return tintSafe(groups, a)
}

func isTrace(groups []string, a slog.Attr) bool {
	if len(groups) > 0 || a.Key != slog.LevelKey {
		return false
	}
	level, ok := a.Value.Any().(slog.Level)
	return ok && level <= levelTrace
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// noColour follows no-color.org and dumb terminals.
func noColour(environ []string) bool {
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if name == "NO_COLOR" && value != "" || name == "TERM" && value == "dumb" {
			return true
		}
	}
	return false
}
