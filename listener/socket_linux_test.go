package listener

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cleversocks/metrics"
)

// TestCongestionBackToTheSystems: a reload that took the setting away left the
// listeners that stayed with what it had been.
func TestCongestionBackToTheSystems(t *testing.T) {
	system, err := systemCongestion()
	if err != nil {
		t.Fatal(err)
	}
	other := "reno" // every kernel has it, for everybody
	if system == other {
		other = "cubic"
	}
	o := Options{Address: "127.0.0.1:0", Congestion: other, Metrics: metrics.New()}
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := congestion(t, l); got != other {
		t.Fatalf("%s, want %s", got, other)
	}
	o.Congestion = ""
	if err := l.SetOptions(o); err != nil {
		t.Fatal(err)
	}
	if got := congestion(t, l); got != system {
		t.Errorf("%s, want the system's %s", got, system)
	}
}

func congestion(t *testing.T, l *Listener) string {
	t.Helper()
	raw, err := l.sockets[0].SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var name string
	if ctl := raw.Control(func(fd uintptr) {
		name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	}); ctl != nil || err != nil {
		t.Fatal(ctl, err)
	}
	return strings.TrimRight(name, "\x00")
}

func TestCheckCongestion(t *testing.T) {
	for name, want := range map[string]string{"": "", "reno": "", "nonsense": "the kernel has no congestion control"} {
		err := CheckCongestion(name)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", name, err, want)
		}
	}
}

// Linux 5.15 knows no TCP_KEEPIDLE for a socket of Multipath TCP, and a daemon did not
// start that got one from systemd. Of a socket of TCP it is a mistake still.
func TestMultipathMayLackOptions(t *testing.T) {
	for protocol, tolerated := range map[int]bool{unix.IPPROTO_TCP: false, unix.IPPROTO_MPTCP: true} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, protocol)
		if err != nil {
			t.Logf("left out: the kernel has no protocol %d: %v", protocol, err)
			continue
		}
		defer unix.Close(fd)
		const unknown = 9999
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unknown, 1)
		if err == nil {
			t.Fatal("the option exists")
		}
		if got := mayLack(fd, err); (got == nil) != tolerated {
			t.Errorf("protocol %d, %v: %v", protocol, err, got)
		}
		if mayLack(fd, unix.EINVAL) == nil {
			t.Errorf("protocol %d: a wrong value is none", protocol)
		}
	}
}
