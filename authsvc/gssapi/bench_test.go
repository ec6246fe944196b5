package gssapi

import (
	"bytes"
	"fmt"
	"net"
	"testing"
)

// again is a stream of the same bytes without end.
type again struct {
	all  []byte
	rest []byte
	back func() // at each new beginning
}

func (a *again) Read(p []byte) (int, error) {
	if len(a.rest) == 0 {
		a.rest = a.all
		a.back()
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// nowhere takes everything.
type nowhere struct{ net.Conn }

func (nowhere) Write(p []byte) (int, error) { return len(p), nil }

// relayBuffer is what a relay reads at once.
const relayBuffer = 16 << 10

// BenchmarkOneWay is what one direction of a wrapped tunnel costs this program,
// without the kernel's part: what a client sends is unwrapped, what a server
// sends is wrapped.
func BenchmarkOneWay(b *testing.B) {
	for etype := int32(17); etype <= 20; etype++ {
		for _, level := range []Level{LevelIntegrity, LevelConfidentiality} {
			name := fmt.Sprintf("etype=%d/%s", etype, level)
			seal := level == LevelConfidentiality
			b.Run(name+"/up", func(b *testing.B) {
				client, server := ends(b, newKey(etype))
				in := &again{back: func() { server.want = 7 }}
				for range 32 {
					in.all = AppendFrame(in.all, typeMessage, client.Wrap(nil, make([]byte, chunk), seal))
				}
				c := NewConn(nil, in, server, level)
				b.SetBytes(relayBuffer)
				b.ReportAllocs()
				buf := make([]byte, relayBuffer)
				for b.Loop() {
					for n := 0; n < relayBuffer; {
						got, err := c.Read(buf[n:])
						if err != nil {
							b.Fatal(err)
						}
						n += got
					}
				}
			})
			b.Run(name+"/down", func(b *testing.B) {
				_, server := ends(b, newKey(etype))
				c := NewConn(nowhere{}, bytes.NewReader(nil), server, level)
				b.SetBytes(relayBuffer)
				b.ReportAllocs()
				buf := make([]byte, relayBuffer)
				for b.Loop() {
					if _, err := c.Write(buf); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
