package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	"github.com/thejerf/suture/v4"
	"golang.org/x/sys/unix"
)

// notifier tells the service manager what the daemon is about (sd_notify(3),
// Type=notify and notify-reload). Without one it tells nobody.
type notifier struct {
	log   *slog.Logger
	muted atomic.Bool // a successor is the main process
}

// mute is for a process that is not the service's main one any more: the
// manager would take what it says for what the service does.
func (n *notifier) mute() { n.muted.Store(true) }

func (n *notifier) isMuted() bool { return n.muted.Load() }

func (n *notifier) tell(ctx context.Context, state string) {
	if n.muted.Load() {
		return
	}
	if _, err := sdnotify.SdNotify(false, state); err != nil {
		n.log.LogAttrs(ctx, slog.LevelWarn, "the service manager was not told", slog.Any("err", err))
	}
}

// ready is the start's end, and that of a reload.
func (n *notifier) ready(ctx context.Context, status string) {
	n.tell(ctx, sdnotify.SdNotifyReady+"\nSTATUS="+status)
}

// succeeded says that another process serves, and is the main one. One message
// says both: there is no moment in which neither is.
func (n *notifier) succeeded(ctx context.Context, pid int) {
	n.tell(ctx, fmt.Sprintf("MAINPID=%d\n%s\nSTATUS=serving", pid, sdnotify.SdNotifyReady))
}

// reloading begins a reload or an upgrade. The time says which one READY will
// answer.
func (n *notifier) reloading(ctx context.Context, status string) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return
	}
	n.tell(ctx, fmt.Sprintf("%s\nMONOTONIC_USEC=%d\nSTATUS=%s", sdnotify.SdNotifyReloading, now.Nano()/1000, status))
}

// stopping begins the end, which takes at most so long.
func (n *notifier) stopping(ctx context.Context, most time.Duration) {
	n.tell(ctx, fmt.Sprintf("%s\nSTATUS=draining\nEXTEND_TIMEOUT_USEC=%d", sdnotify.SdNotifyStopping, most.Microseconds()))
}

// watchdog is the service that tells the manager that the daemon lives, while
// what every connection needs answers.
type watchdog struct {
	*notifier
	answers func() // returns while all is well, and hangs otherwise
}

// String names the service.
func (watchdog) String() string { return "watchdog" }

// Serve tells twice in each of the manager's intervals, until ctx ends.
func (w watchdog) Serve(ctx context.Context) error {
	interval, err := sdnotify.SdWatchdogEnabled(false)
	if err != nil || interval <= 0 {
		return suture.ErrDoNotRestart // nobody watches
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		w.answers()
		w.tell(ctx, sdnotify.SdNotifyWatchdog)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
