//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// dialTimeout bounds one connection through a proxy, and one read.
const dialTimeout = 20 * time.Second

// dial opens a connection through a SOCKS5 proxy without authentication (RFC
// 1928) to an IPv4 target.
func dial(ctx context.Context, proxy string, target *net.TCPAddr) (*net.TCPConn, error) {
	return reachThrough(ctx, proxy, func(c net.Conn) error { return connect(c, target) })
}

func connect(c net.Conn, target *net.TCPAddr) error {
	b := make([]byte, 10)
	if _, err := c.Write([]byte{5, 1, 0}); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, b[:2]); err != nil {
		return fmt.Errorf("method: %w", err)
	}
	request := append([]byte{5, 1, 0, 1}, target.IP.To4()...)
	request = append(request, byte(target.Port>>8), byte(target.Port))
	if _, err := c.Write(request); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, b); err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	if b[1] != 0 || b[3] != 1 {
		return fmt.Errorf("reply % x", b)
	}
	return nil
}

// server is the far end of a measurement.
type server struct {
	listener *net.TCPListener
	wg       sync.WaitGroup
	mu       sync.Mutex
	conns    map[net.Conn]struct{}
	closed   bool
}

// serve accepts and runs handle for each connection until close.
func serve(handle func(*net.TCPConn)) (*server, error) { return serveAt("127.0.0.1:0", handle) }

// serveAt is serve at an address that somebody knows already.
func serveAt(address string, handle func(*net.TCPConn)) (*server, error) {
	at, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return nil, err
	}
	l, err := net.ListenTCP("tcp4", at)
	if err != nil {
		return nil, err
	}
	s := &server{listener: l, conns: make(map[net.Conn]struct{})}
	s.wg.Go(func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return // closed
			}
			if s.track(c) {
				s.wg.Go(func() {
					defer s.drop(c)
					handle(c)
				})
			}
		}
	})
	return s, nil
}

func (s *server) addr() *net.TCPAddr { return s.listener.Addr().(*net.TCPAddr) }

func (s *server) track(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = c.Close()
		return false
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *server) drop(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	_ = c.Close()
}

// close ends all connections and waits for their handlers.
func (s *server) close() {
	_ = s.listener.Close()
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		_ = c.SetDeadline(time.Unix(1, 0))
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// echo sends back what it reads until the connection ends.
func echo(c *net.TCPConn) {
	b := make([]byte, 256)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// source sends as fast as the connection takes it.
func source(c *net.TCPConn) {
	b := make([]byte, 256<<10)
	for {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}
