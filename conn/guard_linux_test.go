//go:build !race

package conn

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// guardedSessions are what a session takes at most on a reactor, in allocations,
// from accept to its end: the session, its place, its way, its tunnel, and what the
// operator's watchers are told of it.
var guardedSessions = map[string]float64{"socks5": 9, "socks4": 9, "http": 14}

// TestGuardSessionAllocations counts what whole sessions allocate, in all of the
// process: both of their ends are descriptors here, which allocate nothing.
func TestGuardSessionAllocations(t *testing.T) {
	if driverTested != "reactors" {
		t.Log("tasks take more, and are for what may wait")
		return
	}
	g, _ := newTestGroup(t, true)
	g.access.SetMode(AccessOff)
	g.access.Watch(func(*Record) {}, func() bool { return false }) // as the daemon does that nobody looks at
	from := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- g.AcceptFrom(ctx, nil, descriptorOf(from), "test", func(string) {}) }()
	t.Cleanup(func() { cancel(); <-ended })
	server := listen(t)
	accept, _, err := descriptorOf(server)()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(accept)
	if err := unix.SetNonblock(accept, false); err != nil {
		t.Fatal(err)
	}
	ends := guardedEnds{
		proxy: rawSockaddr(from.Addr().(*net.TCPAddr).AddrPort()), accept: uintptr(accept), patience: unix.NsecToTimeval(int64(patience)),
	}
	if err := unix.SetsockoptTimeval(accept, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &ends.patience); err != nil {
		t.Fatal(err)
	}
	for name, most := range guardedSessions {
		t.Run(name, func(t *testing.T) {
			ends.request = []byte(sessions(server.Addr().(*net.TCPAddr).AddrPort())[name][0])
			if n := allocationsOf(t, ends.session); n > most+0.5 { // something else allocates now and then
				t.Errorf("%.2f allocations a session, want at most %.0f", n, most)
			}
		})
	}
}

// allocationsOf is the least mean of some series: what else goes on in the process
// allocates too.
func allocationsOf(t *testing.T, one func() error) float64 {
	t.Helper()
	const each = 200
	var least []float64
	for range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range each {
			if err := one(); err != nil {
				t.Fatal(err)
			}
		}
		runtime.ReadMemStats(&after)
		least = append(least, float64(after.Mallocs-before.Mallocs)/each)
	}
	return slices.Min(least)
}

// guardedEnds are a session's client and its server, as descriptors.
type guardedEnds struct {
	proxy    unix.RawSockaddrInet4
	accept   uintptr // the server's socket that listens
	patience unix.Timeval
	request  []byte
	buf      [4096]byte
}

// session is a request with payload, and an end of stream each way. The package
// unix allocates where the kernel tells or is told an address: hence calls of ours.
func (e *guardedEnds) session() error {
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(client)
	if err := unix.SetsockoptTimeval(client, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &e.patience); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(client), uintptr(unsafe.Pointer(&e.proxy)), unsafe.Sizeof(e.proxy)); errno != 0 {
		return errno
	}
	if _, err := unix.Write(client, e.request); err != nil {
		return err
	}
	if err := unix.Shutdown(client, unix.SHUT_WR); err != nil {
		return err
	}
	server, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, e.accept, 0, 0, unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return errno
	}
	if err := errors.Join(e.readAll(int(server)), unix.Close(int(server))); err != nil {
		return err
	}
	return e.readAll(client)
}

func (e *guardedEnds) readAll(fd int) error {
	for {
		if n, err := unix.Read(fd, e.buf[:]); n <= 0 || err != nil {
			return err
		}
	}
}

// rawSockaddr is an IPv4 address as the kernel reads it.
func rawSockaddr(a netip.AddrPort) unix.RawSockaddrInet4 {
	raw := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.Addr().As4()}
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&raw.Port))[:], a.Port())
	return raw
}
