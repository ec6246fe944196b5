//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// streamsEach is how many tunnels share one connection of a client: fewer than
// the daemon allows.
const streamsEach = 100

// carrier is one connection of a client with tunnels as streams of HTTP/2: a
// session of the daemon that holds one descriptor there, in the place of two.
type carrier struct {
	conn   net.Conn
	framer *http2.Framer
	opened chan error // of each stream that was asked for

	mu sync.Mutex // of what is written
}

// carry opens a connection and tunnels to a target in it, and answers what the
// daemon wants to know until the connection ends.
func carry(ctx context.Context, w *workers, proxy, target string, streams int) (*carrier, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp4", proxy)
	if err != nil {
		return nil, err
	}
	c := &carrier{conn: conn, framer: http2.NewFramer(conn, conn), opened: make(chan error, streams)}
	w.run(c.read)
	if err := c.open(target, streams); err != nil {
		_ = conn.Close()
		return nil, err
	}
	for range streams {
		select {
		case err = <-c.opened:
		case <-ctx.Done():
			err = ctx.Err()
		}
		if err != nil {
			_ = conn.Close()
			return nil, err
		}
	}
	return c, nil
}

// open asks for the tunnels.
func (c *carrier) open(target string, streams int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := io.WriteString(c.conn, http2.ClientPreface); err != nil {
		return err
	}
	if err := c.framer.WriteSettings(); err != nil {
		return err
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for n := range streams {
		block.Reset()
		for _, f := range []hpack.HeaderField{{Name: ":method", Value: "CONNECT"}, {Name: ":authority", Value: target}} {
			if err := encoder.WriteField(f); err != nil {
				return err
			}
		}
		if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*n + 1), BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
			return err
		}
	}
	return nil
}

// send has a tunnel move bytes, which come back.
func (c *carrier) send(stream int, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.framer.WriteData(uint32(2*stream+1), false, data)
}

// read takes what comes until the connection ends.
func (c *carrier) read() error {
	decoder := hpack.NewDecoder(4096, nil)
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return nil //nolint:nilerr // it was closed, or a later write says what is wrong
		}
		c.mu.Lock()
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = c.framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = c.framer.WritePing(true, f.Data)
			}
		case *http2.HeadersFrame:
			var fields []hpack.HeaderField
			fields, err = decoder.DecodeFull(f.HeaderBlockFragment())
			c.opened <- refusedBy(fields)
		case *http2.RSTStreamFrame:
			c.opened <- fmt.Errorf("stream %d: %s", f.StreamID, f.ErrCode)
		case *http2.DataFrame:
			if n := uint32(len(f.Data())); n > 0 {
				if err = c.framer.WriteWindowUpdate(0, n); err == nil {
					err = c.framer.WriteWindowUpdate(f.StreamID, n)
				}
			}
		}
		c.mu.Unlock()
		if err != nil {
			return nil //nolint:nilerr // as above
		}
	}
}

func refusedBy(fields []hpack.HeaderField) error {
	for _, f := range fields {
		if f.Name == ":status" && f.Value != "200" {
			return fmt.Errorf("the proxy answers %s", f.Value)
		}
	}
	return nil
}
