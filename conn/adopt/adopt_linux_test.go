package adopt

import (
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestConnHasItsOptions: package net sets TCP_NODELAY and keepalive as it likes, and
// a conn that was made of a socket had these in the place of what the settings say.
func TestConnHasItsOptions(t *testing.T) {
	for _, want := range []Options{
		{},
		{NoDelay: true},
		{KeepAlive: net.KeepAliveConfig{Enable: true, Idle: 300 * time.Second, Interval: 7 * time.Second, Count: 3}},
		{NoDelay: true, KeepAlive: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 127}},
	} {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Conn(fd, want)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var got Options
		if err := raw.Control(func(fd uintptr) { got = Of(int(fd)) }); err != nil || got != want {
			t.Errorf("%+v, %v; want %+v", got, err, want)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			t.Error("the descriptor that the conn was made of is open")
		}
	}
}

// TestOtherSockets have none of these options.
func TestOtherSockets(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	if got := Of(pair[0]); got != (Options{}) {
		t.Errorf("%+v", got)
	}
	c, err := Conn(pair[0], Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if _, err := Conn(-1, Options{}); err == nil {
		t.Error("a conn of nothing")
	}
}

// TestConnOfTheLastDescriptor: none is left, but for the one that is kept. That may have
// a higher number than the sockets, when the test runs for a second time.
func TestConnOfTheLastDescriptor(t *testing.T) {
	Reserve()
	last := int(spare.file.Fd())
	sockets := make([]int, 3)
	for i := range sockets {
		var err error
		if sockets[i], err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			t.Fatal(err)
		}
		last = max(last, sockets[i])
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(last) + 1, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &limit) }()
	for {
		f, err := os.Open(os.DevNull)
		if err != nil {
			break
		}
		defer f.Close()
	}
	for _, fd := range sockets {
		c, err := Conn(fd, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
}
