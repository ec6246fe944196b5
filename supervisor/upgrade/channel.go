package upgrade

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cleversocks/conn/adopt"
)

// kind is what a message is about.
type kind string

const (
	kindHello   kind = "hello"
	kindReady   kind = "ready"
	kindFailed  kind = "failed"
	kindState   kind = "state"
	kindYours   kind = "yours"
	kindServing kind = "serving"
	kindReload  kind = "reload" // which the settings are now, and logs were rotated
	kindRotate  kind = "rotate" // the latter alone
	kindStop    kind = "stop"   // the daemon stops: what is left has drain.timeout
	kindReport  kind = "report" // what connections hold that counts in all processes
	kindShare   kind = "moved"  // of a bandwidth, likewise
	kindEvents  kind = "events" // of sessions, for who follows them
	kindAsk     kind = "ask"    // a question to a predecessor
	kindAnswer  kind = "answer"
)

// message is one thing said.
type message struct {
	Kind kind            `json:"kind"`
	Body json.RawMessage `json:"body,omitempty"`
}

// Messages travel in packets, whose bounds the kernel keeps: the first byte
// says whether more follows. So a third process can go on reading where
// another has stopped.
const (
	packetMore  = 'm'
	packetLast  = 'l'
	packetSize  = 32 << 10
	maxMessage  = 64 << 20
	sendTimeout = 10 * time.Second
)

// channel is one end of a conversation. One goroutine receives at a time.
type channel struct {
	conn *net.UnixConn
	mu   sync.Mutex // of senders
}

// newPair is a channel and the descriptor of its other end, for a process that
// is about to be started. The caller closes both.
func newPair() (*channel, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, -1, fmt.Errorf("socketpair: %w", err)
	}
	c, err := channelOf(os.NewFile(uintptr(fds[0]), "successor"))
	if err != nil {
		_ = unix.Close(fds[1]) // nothing was sent
		return nil, -1, err
	}
	return c, fds[1], nil
}

// channelOf makes a channel of an inherited descriptor, which it closes: the
// channel has one of its own.
func channelOf(f *os.File) (*channel, error) {
	defer f.Close() //nolint:errcheck // it was duplicated
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	c, ok := conn.(*net.UnixConn)
	if !ok {
		_ = conn.Close() // nothing was sent
		return nil, fmt.Errorf("%w: %s is no channel to another process", errNoChannel, f.Name())
	}
	return &channel{conn: c}, nil
}

var errNoChannel = errors.New("LISTEN_FDS")

// send sends a message, whole. body is marshalled; nil: there is none.
func (c *channel) send(k kind, body any) error {
	m := message{Kind: k}
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		m.Body = raw
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(raw) > maxMessage {
		return fmt.Errorf("a message of %d bytes is too large", len(raw))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return gone(err)
	}
	packet := make([]byte, 0, packetSize)
	for {
		n := min(len(raw), packetSize-1)
		packet = append(append(packet[:0], packetLast), raw[:n]...)
		if raw = raw[n:]; len(raw) > 0 {
			packet[0] = packetMore
		}
		if _, err := c.conn.Write(packet); err != nil {
			return gone(err)
		}
		if len(raw) == 0 {
			return nil
		}
	}
}

// receive is the next message. When ctx ends it gives up between two messages,
// never inside one.
func (c *channel) receive(ctx context.Context) (message, error) {
	if err := c.conn.SetReadDeadline(time.Time{}); err != nil {
		return message{}, gone(err)
	}
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(expired)
		_ = c.conn.SetReadDeadline(time.Unix(1, 0)) // fails on a closed one
	})
	defer func() {
		if !stop() {
			<-expired // or it would cut the next message short
		}
	}()
	var raw []byte
	packet := make([]byte, packetSize)
	for {
		n, err := c.read(packet)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if raw == nil {
				return message{}, ctx.Err()
			}
			<-expired
			if err := c.conn.SetReadDeadline(time.Now().Add(sendTimeout)); err != nil {
				return message{}, gone(err)
			}
			continue
		}
		if err != nil || n == 0 {
			return message{}, gone(errors.Join(err, io.EOF))
		}
		raw = append(raw, packet[1:n]...)
		switch {
		case len(raw) > maxMessage:
			return message{}, fmt.Errorf("more than %d bytes in a message", maxMessage)
		case packet[0] == packetLast:
			var m message
			err := json.Unmarshal(raw, &m)
			return m, err
		}
	}
}

// read is one packet. An other side that has ended and had not read all is told of
// first by the kernel, once; what it has sent before is behind that.
func (c *channel) read(packet []byte) (int, error) {
	n, err := c.conn.Read(packet)
	if errors.Is(err, syscall.ECONNRESET) {
		n, err = c.conn.Read(packet)
	}
	return n, err
}

// expect is receive for one kind of message; others that may come between go to
// also. The other side's failure is an error.
func (c *channel) expect(ctx context.Context, want kind, into any, also func(message) error) error {
	for {
		m, err := c.receive(ctx)
		switch {
		case err != nil:
			return err
		case m.Kind == want:
			if into == nil || m.Body == nil {
				return nil
			}
			return json.Unmarshal(m.Body, into)
		case m.Kind == kindFailed:
			var why string
			if err := json.Unmarshal(m.Body, &why); err != nil {
				return err
			}
			return errors.New(why)
		case also != nil:
			if err := also(m); err != nil {
				return err
			}
		default: // of a version that says more
		}
	}
}

// descriptor is a duplicate of the channel's descriptor, for another process.
func (c *channel) descriptor() (int, error) { return adopt.DuplicateOf(c.conn) }

// dismiss closes the channel, and says why. The other side may have stopped to
// read: it is not waited for.
func (c *channel) dismiss(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.close()
	body, _ := json.Marshal(why.Error())                          // a string
	raw, _ := json.Marshal(message{Kind: kindFailed, Body: body}) // likewise
	if len(raw) < packetSize && c.conn.SetWriteDeadline(time.Now().Add(killGrace/100)) == nil {
		_, _ = c.conn.Write(append([]byte{packetLast}, raw...)) // fails where there is no room
	}
}

func (c *channel) close() { _ = c.conn.Close() }

// gone is ErrGone where the other side is.
func gone(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) {
		return ErrGone
	}
	return err
}
