package relay

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"cleversocks/conn/cause"
)

// TestReceiverShutsReading: a receiver that calls shutdown(SHUT_RD) says nothing
// on the wire (RFC 9293 has no such segment), so its tunnel goes on: what it
// sends arrives whole, and its own end of stream ends it.
func TestReceiverShutsReading(t *testing.T) {
	for _, k := range tcpKinds {
		t.Run(k.name, func(t *testing.T) {
			tun := open(t, k.pair, Options{Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors})})
			send(t, tun.server, []byte("a greeting"))
			wantRead(t, tun.client, "a greeting")
			(&end{dress: &dress{tcp: tun.client.(*net.TCPConn)}}).control(func(fd int) {
				if err := unix.Shutdown(fd, unix.SHUT_RD); err != nil {
					t.Error(err)
				}
			})
			send(t, tun.server, bytes.Repeat([]byte("unread"), 1000)) // fits into its window
			const size = 8 << 20
			block := make([]byte, size)
			fillRandom(block)
			go func() {
				_, _ = tun.client.Write(block)
				_ = tun.client.(*net.TCPConn).CloseWrite()
			}()
			got := sha256.New()
			if n, err := io.Copy(got, tun.server); n != size || err != nil {
				t.Fatalf("%d of %d bytes, %v", n, size, err)
			}
			if want := sha256.Sum256(block); !bytes.Equal(got.Sum(nil), want[:]) {
				t.Error("other bytes than were sent")
			}
			shut(tun.server)
			tun.wantEnd(t, cause.ClientClosed)
		})
	}
}

func fillRandom(b []byte) { _, _ = rand.NewChaCha8([32]byte{17}).Read(b) }
