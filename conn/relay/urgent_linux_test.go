package relay

import (
	"bytes"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"cleversocks/conn/cause"
)

// sendUrgent sends bytes of which the last one is urgent.
func sendUrgent(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		failed = unix.Sendto(int(fd), b, unix.MSG_OOB, nil)
		return failed != unix.EAGAIN
	})
	if err != nil || failed != nil {
		t.Fatal(err, failed)
	}
}

// TestUrgentByte: an urgent byte ended a spliced stream as if it were complete,
// or stalled it, and was itself lost. Telnet's IAC DM and FTP's ABOR are sent
// that way. It arrives in its place, as Dante and 3proxy have it.
func TestUrgentByte(t *testing.T) {
	block := bytes.Repeat([]byte("0123456789abcdef"), 8<<10) // 128 KiB: enough to be spliced
	tests := []struct {
		name string
		send []string // an odd one is urgent
	}{
		{"first", []string{"", "!", "after"}},
		{"alone", []string{"", "!"}},
		{"between messages", []string{"before", "!", "after", "?", "end"}},
		{"with others before it", []string{"", "interrupt\xff\xf2", "after"}},
		{"in bulk", []string{string(block), "!", string(block), "?", string(block) + string(block)}},
		{"two at once", []string{"a", "!", "", "?", "b"}},
	}
	for _, k := range tcpKinds { // unix sockets have none
		for _, tt := range tests {
			t.Run(k.name+" "+tt.name, func(t *testing.T) {
				tun := open(t, k.pair, Options{Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors})})
				var want []byte
				go func() {
					for i, piece := range tt.send {
						switch {
						case piece == "":
						case i%2 == 1:
							sendUrgent(t, tun.server, []byte(piece))
						default:
							_, _ = tun.server.Write([]byte(piece))
						}
					}
				}()
				for _, piece := range tt.send {
					want = append(want, piece...)
				}
				got := make([]byte, len(want))
				if n, err := io.ReadFull(tun.client, got); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("read %d of %d bytes, %v; the same: %v", n, len(want), err, bytes.Equal(got, want))
				}
				send(t, tun.client, []byte("heard"))
				wantRead(t, tun.server, "heard")
				closeWrite(t, tun.server)
				wantEOF(t, tun.client)
				shut(tun.client)
				tun.wantEnd(t, cause.ServerClosed)
			})
		}
	}
}
