package supervisor

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNotify is what systemd hears of a life: sd_notify(3)'s states, each as
// one datagram.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	if err := manager.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000000")
	n := &notifier{log: slog.New(slog.DiscardHandler)}
	hear := func(want ...string) {
		t.Helper()
		b := make([]byte, 4096)
		size, err := manager.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(string(b[:size]), w) {
				t.Errorf("%q has no %q", b[:size], w)
			}
		}
	}
	n.ready(t.Context(), "serving")
	hear("READY=1", "STATUS=serving")
	n.reloading(t.Context(), "reloading")
	hear("RELOADING=1", "MONOTONIC_USEC=")
	n.stopping(t.Context(), 30*time.Second)
	hear("STOPPING=1", "EXTEND_TIMEOUT_USEC=30000000")
	n.succeeded(t.Context(), 4711)
	hear("MAINPID=4711", "READY=1")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- watchdog{n, func() {}}.Serve(ctx) }()
	hear("WATCHDOG=1")
	cancel()
	<-ended
}
