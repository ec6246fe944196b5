package conn

import (
	"io"
	"testing"
)

// BenchmarkConnection is one connection from accept to its end: a request, its
// reply, an end of stream each way. Client and server are part of the figures,
// and the same whatever is between them.
func BenchmarkConnection(b *testing.B) {
	g, _ := newTestGroup(b, true)
	to, l := sinkServer(b), listen(b)
	for name, talk := range sessions(to) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				client, server := pair(b, l)
				if reason := g.Admit(server, "bench"); reason != "" {
					b.Fatal(reason)
				}
				if _, err := client.Write([]byte(talk[0])); err != nil {
					b.Fatal(err)
				}
				if err := client.CloseWrite(); err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadAll(client); err != nil {
					b.Fatal(err)
				}
				client.Close()
			}
		})
	}
}
