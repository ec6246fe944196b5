// Package collector sends lines of a log to a program that collects them:
// a syslog server (RFC 5424) or journald, by its native protocol.
//
//	c := collector.New(collector.Options{Network: "udp", Address: "192.0.2.5:514", ...})
//	n, err := c.Write(lines) // waits until they are sent, or for Close
//	c.Close()
package collector

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
)

const (
	// firstPause and lastPause bound the wait between attempts to reach a
	// collector that does not answer.
	firstPause = 100 * time.Millisecond
	lastPause  = 30 * time.Second
	// connectTimeout bounds one attempt, names included.
	connectTimeout = 10 * time.Second
	// sendTimeout is how long a collector may take nothing before the connection
	// to it counts as dead.
	sendTimeout = 30 * time.Second
	// maxMessage bounds one message: what rsyslog takes by default. A longer one
	// is cut.
	maxMessage = 8 << 10
)

// Options say where a collector is and how it likes its messages.
type Options struct {
	Network  string // unix, udp or tcp
	Address  string // a path, or host and port
	Journald bool   // its protocol; else syslog's
	Facility int    // of syslog
	Old      bool   // the form of RFC 3164
	JSON     bool   // journald's MESSAGE is the line itself; else it is text
	// Log hears, once, that the collector does not answer, and that it does again.
	Log *slog.Logger
}

// Collector is an io.Writer. Write and Close may be called at the same time,
// Write by one goroutine.
type Collector struct {
	o       Options
	encode  func(dst, line []byte) []byte // appends a line's message, without framing
	ctx     context.Context               //nolint:containedctx // a collector's life, which Write has no argument for
	cancel  context.CancelFunc
	again   chan struct{} // 1: connect again, and do not wait any longer
	conn    net.Conn      // nil: not connected
	stream  bool          // conn's messages need framing
	silent  bool          // Log has heard that nobody answers
	pause   time.Duration // before the next attempt; 0: at once
	message []byte        // is used again and again
	parts   [][]byte
}

// errClosed is what Write returns for lines that were not sent when the collector was closed.
var errClosed = errors.New("the collector was not reached before the log was closed")

// New makes a collector. It connects when there is something to send, so that a
// daemon starts without it.
func New(ctx context.Context, o Options) *Collector {
	c := &Collector{o: o, again: make(chan struct{}, 1)}
	c.ctx, c.cancel = context.WithCancel(ctx)
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "-"
	}
	s := syslog{facility: o.Facility, host: printUSASCII(host, 255), pid: strconv.Itoa(os.Getpid()), old: o.Old}
	c.encode = s.message
	if o.Journald {
		c.encode = journald{json: o.JSON}.message
	}
	return c
}

// Reopen ends the connection at the next write, and any wait for the next attempt now. It never
// blocks.
func (c *Collector) Reopen() {
	select {
	case c.again <- struct{}{}:
	default:
	}
}

// Close ends a Write that waits. It never blocks.
func (c *Collector) Close() error {
	c.cancel()
	return nil
}

// Write sends whole lines, each as a message, and returns when the system has all of them.
// It tries again until then. n are the bytes of lines that were sent; an error
// means that the collector was closed.
func (c *Collector) Write(lines []byte) (n int, err error) {
	for n < len(lines) {
		if c.ctx.Err() != nil {
			c.disconnect()
			return n, errClosed
		}
		if !c.connected() {
			c.rest()
			continue
		}
		sent, err := c.send(lines[n:])
		n += sent
		if err != nil {
			c.failed(err)
			c.rest()
			continue
		}
		c.works()
	}
	return n, nil
}

// connected makes a connection if there is none, or if there is to be another one.
func (c *Collector) connected() bool {
	select {
	case <-c.again:
		c.disconnect()
	default:
	}
	if c.conn != nil && c.stream && ended(c.conn) {
		c.disconnect() // what would be written now would be lost without a word
	}
	if c.conn != nil {
		return true
	}
	ctx, cancel := context.WithTimeout(c.ctx, connectTimeout)
	defer cancel()
	conn, err := c.dial(ctx)
	if err != nil {
		c.failed(err)
		return false
	}
	c.conn = conn
	return true
}

func (c *Collector) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	c.stream = c.o.Network == "tcp"
	if c.o.Network != "unix" {
		return d.DialContext(ctx, c.o.Network, c.o.Address)
	}
	conn, err := d.DialContext(ctx, "unixgram", c.o.Address)
	if errors.Is(err, syscall.EPROTOTYPE) && !c.o.Journald { // syslog-ng's may be a stream
		c.stream = true
		return d.DialContext(ctx, "unix", c.o.Address)
	}
	return conn, err
}

// send sends lines over the connection and returns the bytes of those that went.
func (c *Collector) send(lines []byte) (n int, err error) {
	// A collector that is closed does not wait for one that hangs.
	defer context.AfterFunc(c.ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })()
	for n < len(lines) {
		end := bytes.IndexByte(lines[n:], '\n')
		if end < 0 {
			end = len(lines) - n - 1 // a line without an end: it is one all the same
		}
		line := bytes.TrimSuffix(lines[n:n+end+1], []byte{'\n'})
		if len(line) > 0 {
			if err := c.sendOne(line); err != nil {
				return n, err
			}
		}
		n += end + 1
	}
	return n, nil
}

func (c *Collector) sendOne(line []byte) error {
	c.message = c.encode(c.message[:0], line)
	if c.stream {
		c.parts = append(c.parts[:0], frame(c.o.Network, c.o.Old, c.message)...)
	}
	if err := c.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	if c.ctx.Err() != nil { // the deadline of its end was just taken back
		return errClosed
	}
	if c.stream {
		buffers := net.Buffers(c.parts)
		_, err := buffers.WriteTo(c.conn)
		return err
	}
	_, err := c.conn.Write(c.message)
	if errors.Is(err, syscall.ECONNREFUSED) && c.o.Network == "udp" {
		_, err = c.conn.Write(c.message) // that was said of the datagram before
	}
	switch {
	case !errors.Is(err, syscall.EMSGSIZE) && !errors.Is(err, syscall.ENOBUFS):
	case c.o.Journald:
		err = sendAsFile(c.conn, c.message)
	default:
		const smallest = 480 // RFC 5424 §6.1: what every receiver takes
		_, err = c.conn.Write(cut(c.message, smallest))
	}
	return err
}

// frame is a message as a stream has it: by octet counting over TCP (RFC 6587
// §3.4.1), which no text in a message can break; with a line's end in the old form and on a unix socket,
// whose readers know nothing else.
func frame(network string, old bool, message []byte) [][]byte {
	if network == "unix" || old {
		return [][]byte{message, {'\n'}}
	}
	return [][]byte{append(strconv.AppendInt(nil, int64(len(message)), 10), ' '), message}
}

// ended says that a stream's other side has closed it. A syslog server never
// says anything, so that whatever can be read is the end.
func ended(conn net.Conn) bool {
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		gone = err == nil && n == 0 || err != nil && !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR)
		return true
	})
	return gone || err != nil
}

func (c *Collector) disconnect() {
	if c.conn != nil {
		_ = c.conn.Close() // what was not sent is sent again
		c.conn = nil
	}
}

// failed ends a connection that does not work.
func (c *Collector) failed(err error) {
	c.disconnect()
	c.pause = min(max(2*c.pause, firstPause), lastPause)
	if !c.silent && c.ctx.Err() == nil {
		c.silent = true
		c.o.Log.LogAttrs(c.ctx, slog.LevelWarn, "access records wait: their collector does not answer",
			slog.String("address", c.o.Address), slog.Any("err", err))
	}
}

func (c *Collector) works() {
	c.pause = 0
	if c.silent {
		c.silent = false
		c.o.Log.LogAttrs(c.ctx, slog.LevelInfo, "the collector of access records answers again", slog.String("address", c.o.Address))
	}
}

// rest waits for the next attempt's time.
func (c *Collector) rest() {
	timer := time.NewTimer(c.pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.again:
		c.pause = 0
	case <-c.ctx.Done():
	}
}
