package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// farEnd is an address of its own, with a tunnel through the proxy to it.
func farEnd(t *testing.T, proxy string) (client, server net.Conn) {
	t.Helper()
	inNet(t, "ip addr add 198.51.100.66/32 dev lo")
	t.Cleanup(func() { inNet(t, "ip addr del 198.51.100.66/32 dev lo") })
	l, err := net.Listen("tcp", "198.51.100.66:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if client, err = net.Dial("tcp", proxy); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	port := l.Addr().(*net.TCPAddr).Port
	_, _ = client.Write([]byte{5, 1, 0, 5, 1, 0, 1, 198, 51, 100, 66, byte(port >> 8), byte(port)})
	_ = client.SetDeadline(time.Now().Add(patience))
	if _, err = io.ReadFull(client, make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	_ = server.SetDeadline(time.Now().Add(patience))
	return client, server
}

// filter has the kernel do something with the packets to a server, and counts
// them.
func filter(t *testing.T, server net.Conn, verdict string) {
	t.Helper()
	program(t, "nft", "nftables")
	inNet(t, "nft add table inet badpath")
	t.Cleanup(func() { _ = exec.Command("nft", "delete", "table", "inet", "badpath").Run() })
	inNet(t, "nft add chain inet badpath out { type filter hook output priority 0 ; }")
	inNet(t, fmt.Sprintf("nft add rule inet badpath out tcp dport %d counter %s", server.LocalAddr().(*net.TCPAddr).Port, verdict))
}

// TestPathChangesInMidStream: a router that calls an established flow
// unreachable is a passing trouble (RFC 5461 §2), and one that takes smaller
// packets is none. Every byte of a spliced stream arrives, once.
func TestPathChangesInMidStream(t *testing.T) {
	for name, change := range map[string]func(*testing.T, net.Conn) (mend func()){
		"unreachable": func(t *testing.T, server net.Conn) func() {
			t.Helper()
			filter(t, server, "reject with icmpx type host-unreachable")
			return func() {
				inNet(t, "nft delete table inet badpath")
			}
		},
		"smaller packets": func(t *testing.T, _ net.Conn) func() {
			t.Helper()
			inNet(t, "ip route change local 198.51.100.66 dev lo table local mtu 700")
			return func() {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := freePort(t)
			d := start(t, "[[listener]]\naddress = \"127.0.0.1:"+p+"\"\n")
			client, server := farEnd(t, "127.0.0.1:"+p)
			block := make([]byte, 24<<20)
			_, _ = rand.NewChaCha8([32]byte{66}).Read(block)
			go func() {
				_, _ = client.Write(block)
				_ = client.(*net.TCPConn).CloseWrite()
			}()
			got := sha256.New()
			read := func(n int64) {
				if _, err := io.CopyN(got, server, n); err != nil {
					t.Fatal(err)
				}
			}
			read(1 << 20)
			mend := change(t, server)
			if name == "unreachable" {
				eventually(t, "packets are refused", func() bool {
					_ = server.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // what is there already makes room
					_, _ = io.CopyN(got, server, 256<<10)
					rules, err := exec.Command("nft", "list", "table", "inet", "badpath").Output()
					return err == nil && !strings.Contains(string(rules), "counter packets 0 ")
				})
				_ = server.SetReadDeadline(time.Now().Add(patience))
			}
			mend()
			if _, err := io.Copy(got, server); err != nil {
				t.Fatal(err)
			}
			if [32]byte(got.Sum(nil)) != sha256.Sum256(block) {
				t.Error("other bytes arrived than were sent")
			}
			_, _ = client.Close(), server.Close()
			if cause := d.record(server.LocalAddr().String()).text("cause"); cause != "client_closed" {
				t.Errorf("cause %q", cause)
			}
			// A few idle pipes may stay, so descriptors are no measure here.
			eventually(t, "nothing is left of it", func() bool {
				return d.metric(`cleversocks_connections_active{protocol="socks5"}`) == "0"
			})
		})
	}
}

// TestKeepaliveLoss: a server that is cut off from the network ends an idle
// tunnel by keepalive: the client is told, the place is free.
func TestKeepaliveLoss(t *testing.T) {
	p := freePort(t)
	d := start(t, "[[listener]]\naddress = \"127.0.0.1:"+p+"\"\n[relay.keepalive]\nidle = \"1s\"\ninterval = \"1s\"\ncount = 2\n")
	before := d.baseline()
	client, server := farEnd(t, "127.0.0.1:"+p)
	filter(t, server, "drop")
	if n, err := client.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes, %v, want a reset", n, err)
	}
	l := d.record(server.LocalAddr().String())
	if cause := l.text("cause"); cause != "server_reset" || !strings.Contains(l.text("err"), "timed out") {
		t.Errorf("cause %q: %v", cause, l)
	}
	d.backTo(before)
}
