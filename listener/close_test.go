package listener

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// greeter is a Handler that says one byte to each connection.
type greeter struct{}

func (greeter) TurnedAway(net.Conn, string, string) {}

func (greeter) Admit(c net.Conn, _ string) string {
	_, _ = c.Write([]byte("x"))
	c.Close()
	return ""
}

// A listener that a reload removes, or one of its accept sockets, is closed
// while clients come: each either finds the port closed, or is served. Without
// keeping new handshakes out first, those that ended between the last look at
// the queue and the end of the socket were reset.
func TestCloseLosesNobody(t *testing.T) {
	for _, at := range []struct {
		address string
		shards  int
	}{{"127.0.0.1:0", 1}, {"127.0.0.1:0", 3}, {"[::]:0", 2}} {
		for range 6 {
			o := options(at.address)
			o.Shards = at.shards
			l, err := Open(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var serving, clients sync.WaitGroup
			host, port, _ := net.SplitHostPort(l.Addr().String()) // [::] is this machine, to a client
			for _, s := range l.Services(greeter{}) {
				serving.Go(func() { _ = s.Serve(ctx) })
			}
			var served, lost atomic.Int64
			stop := make(chan struct{})
			begun := make(chan struct{}, 100)
			for range 4 {
				clients.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						dialer := net.Dialer{Timeout: 100 * time.Millisecond} // one that is kept out has no answer
						c, err := dialer.Dial("tcp", net.JoinHostPort(host, port))
						if err != nil {
							continue
						}
						_ = c.SetDeadline(time.Now().Add(patience))
						if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
							lost.Add(1)
						} else {
							served.Add(1)
						}
						c.Close()
						select {
						case begun <- struct{}{}:
						default:
						}
					}
				})
			}
			for range 50 {
				<-begun
			}
			cancel()
			serving.Wait()
			l.Close()
			close(stop)
			clients.Wait()
			if n := lost.Load(); n > 0 {
				t.Fatalf("%s, %d shards: %d connections were lost, %d served", at.address, at.shards, n, served.Load())
			}
		}
	}
}

// A socket that another process has too is left to it with its queue, and still
// takes new connections: no filter may stay on it.
func TestPassedSocketKeepsItsQueue(t *testing.T) {
	l, err := Open(t.Context(), options("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	fd, err := l.sockets[0].(leaver).Leave()
	if err != nil {
		t.Fatal(err)
	}
	other := os.NewFile(uintptr(fd), "")
	o := options(l.Address())
	o.Inherited = append(o.Inherited, other)
	successor, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	defer successor.Close()
	other.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l.Pass()
	_ = l.Services(greeter{})[0].Serve(ctx)
	first, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	l.Close()
	serve(t, successor, greeter{})
	second, err := net.Dial("tcp", successor.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	for _, c := range []net.Conn{first, second} {
		_ = c.SetDeadline(time.Now().Add(patience))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Error(err)
		}
	}
}

// filer is a socket whose descriptor can be had.
type filer interface{ File() (*os.File, error) }

// What is passed and cannot be accepted from is refused in words.
func TestInheritRefuses(t *testing.T) {
	datagram, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer datagram.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	unixSocket, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer unixSocket.Close()
	for name, c := range map[string]struct {
		from []filer
		want string
	}{
		"datagrams":    {[]filer{datagram.(*net.UDPConn)}, "datagram socket"},
		"a connection": {[]filer{conn.(*net.TCPConn)}, "is a connection"},
		"two kinds":    {[]filer{l.(*net.TCPListener), unixSocket.(*net.UnixListener)}, "unix sockets and others"},
	} {
		o := options("systemd:proxy")
		o.Lasting = true
		for _, f := range c.from {
			file, err := f.File()
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			o.Inherited = append(o.Inherited, file)
		}
		opened, err := Open(t.Context(), o)
		if err == nil {
			opened.Close()
			t.Errorf("%s: opened", name)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
