package listener

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A socket that reactors accept from is none that Go's poller looks at: a thread
// would be woken for each connection, for nothing. Nothing else changes: it can be
// accepted from again, with the deadline of meanwhile.
func TestSocketIsLeft(t *testing.T) {
	l := listenTCP(t)
	if !isPolled(t, l) {
		t.Fatal("the test does not see that the socket is polled")
	}
	for range 3 {
		fd, err := l.(leaver).Leave()
		if err != nil {
			t.Fatal(err)
		}
		if isPolled(t, l) {
			t.Error("is polled still")
		}
		dial(t, l.Addr().String()).Close()
		waitQueued(t, l)
		one, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(one)
		unix.Close(fd)
		dial(t, l.Addr().String()).Close()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if !isPolled(t, l) {
			t.Error("is accepted from, and not polled")
		}
	}
}

// The service's context may end while reactors accept: the deadline that ends
// Accept is set then.
func TestSocketKeepsTheDeadlineOfMeanwhile(t *testing.T) {
	l := listenTCP(t)
	fd, err := l.(leaver).Leave()
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	if err := l.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("accept: %v", err)
	}
}

// To be accepted from by Accept again, a socket that was left took two descriptors
// more than it had. When connections had used all of them up, the one that is kept for
// that day was too little, and clients hung in the queue in the place of being reset.
func TestSocketComesBackWithOneDescriptor(t *testing.T) {
	l := listenTCP(t)
	fd, err := l.(leaver).Leave()
	if err != nil {
		t.Fatal(err)
	}
	spare := newSpare()
	defer spare.close()
	client := dial(t, l.Addr().String())
	waitQueued(t, l)
	unix.Close(fd)
	free := exhaustDescriptors(t)
	for range 2 { // it can be tried again
		if _, err := l.Accept(); !isExhaustion(err) {
			t.Fatalf("%v, want EMFILE", err)
		}
	}
	c := spare.accept(l)
	if c == nil {
		t.Fatal("nothing is accepted with the spare descriptor")
	}
	c.Close()
	if _, err := l.(leaver).Leave(); !isExhaustion(err) && err != nil {
		t.Fatalf("%v, want EMFILE", err)
	}
	free()
	_ = client.SetDeadline(time.Now().Add(patience))
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("the client's connection is open")
	}
}

// Whatever a lack of descriptors leaves behind can be left, closed and asked.
func TestSocketWithoutDescriptors(t *testing.T) {
	l := listenTCP(t)
	fd, err := l.(leaver).Leave()
	if err != nil {
		t.Fatal(err)
	}
	free := exhaustDescriptors(t)
	if _, err := l.Accept(); !isExhaustion(err) {
		t.Fatalf("%v, want EMFILE", err)
	}
	if _, err := l.(leaver).Leave(); !isExhaustion(err) {
		t.Fatalf("%v, want EMFILE", err)
	}
	free()
	unix.Close(fd)
	runtime.GC() // whatever closes descriptors that nobody holds must not close this one
	if fd, err = l.(leaver).Leave(); err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	if isPolled(t, l) {
		t.Error("is polled still")
	}
	dial(t, l.Addr().String()).Close()
	waitQueued(t, l)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// A port is free when a socket is closed that was left, and nothing uses its
// descriptor afterwards, which may be somebody else's by then.
func TestSocketCloses(t *testing.T) {
	for _, left := range []bool{false, true} {
		t.Run(fmt.Sprint("left ", left), func(t *testing.T) {
			l := listenTCP(t)
			if left {
				fd, err := l.(leaver).Leave()
				if err != nil {
					t.Fatal(err)
				}
				unix.Close(fd)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("closes again: %v", err)
			}
			if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("accept: %v", err)
			}
			if _, err := l.(leaver).Leave(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("leave: %v", err)
			}
			if err := l.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
				t.Errorf("deadline: %v", err)
			}
			raw, err := l.SyscallConn()
			if err == nil {
				err = raw.Control(func(uintptr) { t.Error("a closed descriptor is used") })
			}
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("control: %v", err)
			}
			again, err := net.Listen("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			again.Close()
		})
	}
}

func listenTCP(t *testing.T) socket {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newTCPSocket(l.(*net.TCPListener), false)
	t.Cleanup(func() { _ = s.Close() }) // the test may have closed it
	return s
}

// waitQueued waits until a connection can be accepted.
func waitQueued(t *testing.T, s socket) {
	t.Helper()
	raw, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for late := time.Now().Add(10 * time.Second); !queued(raw); <-time.After(time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("no connection comes")
		}
	}
}

// isPolled says whether any epoll of this process knows the socket.
func isPolled(t *testing.T, s socket) bool {
	t.Helper()
	raw, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if controlErr := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &stat) }); controlErr != nil || err != nil {
		t.Fatal(controlErr, err)
	}
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err != nil || to != "anon_inode:[eventpoll]" {
			continue // it may be gone
		}
		known, err := os.ReadFile("/proc/self/fdinfo/" + filepath.Base(fd))
		if err == nil && strings.Contains(string(known), fmt.Sprintf("ino:%x ", stat.Ino)) {
			return true
		}
	}
	return false
}

// Who has a socket by systemd shares it with that, and with other services; one of
// one's own, or a predecessor's, is asked for nothing at each connection.
func TestSocketsOfOthersAreShared(t *testing.T) {
	first := listenTCP(t)
	if first.(leaver).Shared() {
		t.Error("a socket of one's own is shared")
	}
	fd, err := first.(leaver).Leave()
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "")
	defer file.Close()
	for _, lasting := range []bool{false, true} {
		o := options(first.Addr().String())
		o.Inherited, o.Lasting = []*os.File{file}, lasting
		l, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if is := l.sockets[0].(leaver).Shared(); is != lasting {
			t.Errorf("shared: %v, want %v", is, lasting)
		}
		l.Close()
	}
}
