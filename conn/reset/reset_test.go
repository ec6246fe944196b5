package reset

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestClose(t *testing.T) {
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(t.TempDir(), "s")} {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		peer, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		Close(c)
		want := map[string]error{"tcp": syscall.ECONNRESET, "unix": io.EOF}[network]
		_ = peer.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, want) {
			t.Errorf("%s: the peer sees %v, want %v", network, err, want)
		}
	}
}
