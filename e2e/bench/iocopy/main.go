// Command iocopy is the yardstick of the benchmark: the least SOCKS5 proxy
// that Go's standard library makes. It must not change.
package main

import (
	"flag"
	"io"
	"log"
	"net"
	"strconv"
	"sync"
)

func main() {
	address := flag.String("listen", "127.0.0.1:1080", "address to listen on")
	flag.Parse()
	l, err := net.Listen("tcp", *address)
	if err != nil {
		log.Fatal(err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go serve(c.(*net.TCPConn))
	}
}

// serve answers a CONNECT to an IPv4 address and relays.
func serve(client *net.TCPConn) {
	defer func() { _ = client.Close() }()
	b := make([]byte, 262)
	if _, err := io.ReadFull(client, b[:3]); err != nil { // one method
		return
	}
	_, _ = client.Write([]byte{5, 0})
	if _, err := io.ReadFull(client, b[:10]); err != nil || b[3] != 1 {
		return
	}
	target := net.JoinHostPort(net.IP(b[4:8]).String(), strconv.Itoa(int(b[8])<<8|int(b[9])))
	c, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	server := c.(*net.TCPConn)
	defer func() { _ = server.Close() }()
	_, _ = client.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	var wg sync.WaitGroup
	wg.Go(func() { copyHalf(server, client) })
	copyHalf(client, server)
	wg.Wait()
}

func copyHalf(dst, src *net.TCPConn) {
	_, _ = io.Copy(dst, src)
	_ = dst.CloseWrite()
}
