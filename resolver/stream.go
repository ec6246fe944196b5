package resolver

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/semaphore"

	"cleversocks/conn/task"
	"cleversocks/metrics"
)

const (
	// streamIdle is how long a connection is kept without a query (RFC 7766
	// §6.2.3: in the order of seconds).
	streamIdle = 20 * time.Second
	// MaxPipelined bounds the queries under way on one connection.
	MaxPipelined = 512
	// streamSilence is how long a server may leave a query without any
	// message at all before its connection is taken for dead.
	streamSilence = 2 * time.Second
	// maxBarren is on how many connections that end without any answer a query
	// is tried.
	maxBarren = 3
	// MaxSingle bounds the connections for one query each, to a server.
	MaxSingle = 16
)

var (
	errBusy = errors.New("too many queries on the connection")
	errGone = errors.New("connection ended")
)

// streamTransport asks over one kept connection, TCP or TLS. Queries are
// pipelined and answered in any order (RFC 7766 §6.2.1.1, RFC 7858 §3.3). A
// server that ends its connections after one answer gets one for each query.
type streamTransport struct {
	dial    func(ctx context.Context) (net.Conn, error)
	counts  metrics.DNS
	scope   *task.Scope // the resolver's: it waits for the connections' readers
	manners manners
	single  *semaphore.Weighted // bounds connections for one query

	gate    chan struct{} // held while what follows is looked at, or a connection dialed
	conn    *streamConn
	retired bool
	// hasty is until when the server is taken for one that ends connections
	// after an answer.
	hasty time.Time
}

func newStream(dial func(context.Context) (net.Conn, error), counts metrics.DNS, scope *task.Scope) *streamTransport {
	return &streamTransport{
		dial: dial, counts: counts, scope: scope, single: semaphore.NewWeighted(MaxSingle), gate: make(chan struct{}, 1),
	}
}

func (s *streamTransport) exchange(ctx context.Context, q question) (*dns.Msg, error) {
	reply, err := s.manners.converse(ctx, q, hardening{edns: true}, s.ask)
	if err == nil && reply.Truncated {
		return nil, fmt.Errorf("%w: truncated on a stream", errMalformed)
	}
	return reply, err
}

// ask sends a query, and again on a new connection when the one it was sent on
// ended without an answer to it: a server may end a connection whenever it
// likes (RFC 7766 §6.2.4). Connections that bring nothing to anybody are
// tried maxBarren times; every other round has answered somebody.
func (s *streamTransport) ask(ctx context.Context, q query) (*dns.Msg, error) {
	for barren := 0; ; {
		if s.isHasty(ctx) {
			return s.askAlone(ctx, q)
		}
		c, err := s.get(ctx)
		if err != nil {
			return nil, err
		}
		reply, err := c.ask(ctx, q.msg)
		if errors.Is(err, errBusy) {
			s.counts.Limits.Of(metrics.LimitDNSPipelined).Inc()
		}
		if !errors.Is(err, errGone) || ctx.Err() != nil {
			return reply, err
		}
		if c.wasCutShort() {
			s.noteHasty(ctx)
		}
		if c.answers() == 0 {
			if barren++; barren >= maxBarren {
				return nil, err
			}
		}
	}
}

// get is the kept connection, or a new one. Those who come while it is dialed
// wait for it.
func (s *streamTransport) get(ctx context.Context) (*streamConn, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.exit()
	if s.conn != nil && s.conn.alive() {
		return s.conn, nil
	}
	c, err := s.open(ctx, s.retired)
	if err != nil {
		return nil, err
	}
	s.conn = c
	return c, nil
}

// enter takes the gate.
func (s *streamTransport) enter(ctx context.Context) error {
	select {
	case s.gate <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *streamTransport) exit() { <-s.gate }

// open dials a connection and has it read. A retired one closes when nobody
// waits for an answer.
func (s *streamTransport) open(ctx context.Context, retired bool) (*streamConn, error) {
	nc, err := s.dial(ctx)
	if err != nil {
		return nil, endOf(ctx, err)
	}
	c := &streamConn{conn: nc, dropped: s.counts.Dropped, waiting: make(map[uint16]*waiter), retired: retired, heard: time.Now()}
	s.scope.Go(func() error {
		defer c.end(errGone) // if it panics, for who waits
		c.read()
		return nil
	})
	return c, nil
}

// noteHasty remembers that the server ends connections after one answer.
func (s *streamTransport) noteHasty(ctx context.Context) {
	if s.enter(ctx) == nil {
		s.hasty = time.Now().Add(lapseLife)
		s.exit()
	}
}

// isHasty reports a server that ends connections after one answer.
func (s *streamTransport) isHasty(ctx context.Context) bool {
	if s.enter(ctx) != nil {
		return false
	}
	defer s.exit()
	return time.Now().Before(s.hasty)
}

// askAlone sends a query on a connection of its own.
func (s *streamTransport) askAlone(ctx context.Context, q query) (*dns.Msg, error) {
	if !s.single.TryAcquire(1) {
		s.counts.Limits.Of(metrics.LimitDNSSingle).Inc()
		if err := s.single.Acquire(ctx, 1); err != nil {
			return nil, context.Cause(ctx)
		}
	}
	defer s.single.Release(1)
	c, err := s.open(ctx, true)
	if err != nil {
		return nil, err
	}
	defer c.retire() // if it never came to a query
	return c.ask(ctx, q.msg)
}

// retire lets the queries under way finish and closes the connection then.
func (s *streamTransport) retire() {
	s.gate <- struct{}{} // held for a dial at the longest
	defer s.exit()
	s.retired = true
	if s.conn != nil {
		s.conn.retire()
	}
}

// streamConn is one connection with its reader.
type streamConn struct {
	conn    net.Conn
	dropped metrics.CounterVec

	write sync.Mutex // held while a message is written

	mu      sync.Mutex
	waiting map[uint16]*waiter
	heard   time.Time // when the last message came
	retired bool      // close when nobody waits
	err     error     // why the connection ended
	// answered counts the queries that got their answer, unanswered those that
	// waited for one when the connection ended.
	answered, unanswered int
}

// waiter is one query under way. done has room for its one outcome.
type waiter struct {
	query *dns.Msg
	done  chan outcome
}

type outcome struct {
	reply *dns.Msg
	err   error
}

func (c *streamConn) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil
}

// answers is how many queries the connection answered.
func (c *streamConn) answers() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answered
}

// wasCutShort reports that the connection ended after one answer, while others
// were awaited. That answer may not have arrived: a socket that is closed with
// queries unread resets the connection.
func (c *streamConn) wasCutShort() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.answered <= 1 && c.answered+c.unanswered > 1
}

func (c *streamConn) ask(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	w, err := c.enter(query)
	if err != nil {
		return nil, err
	}
	defer c.leave(w)
	asked := time.Now()
	if err := c.send(ctx, w.query); err != nil {
		return nil, endOf(ctx, err)
	}
	select {
	case o := <-w.done:
		return o.reply, o.err
	case <-ctx.Done():
		c.mu.Lock()
		silent := !c.heard.After(asked) && time.Since(asked) >= streamSilence
		c.mu.Unlock()
		if silent {
			c.end(fmt.Errorf("%w: silence", errGone))
		}
		return nil, context.Cause(ctx)
	}
}

// enter registers a query under an id that no other one under way has.
func (c *streamConn) enter(query *dns.Msg) (*waiter, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, c.err
	}
	if len(c.waiting) >= MaxPipelined {
		return nil, errBusy
	}
	query = query.Copy()
	for c.waiting[query.Id] != nil {
		query.Id = randomID()
	}
	w := &waiter{query: query, done: make(chan outcome, 1)}
	c.waiting[query.Id] = w
	_ = c.conn.SetReadDeadline(time.Time{})
	return w, nil
}

// leave ends the wait for a query.
func (c *streamConn) leave(w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, w.query.Id)
	if len(c.waiting) > 0 {
		return
	}
	if c.retired {
		_ = c.conn.Close()
		return
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(streamIdle))
}

// send writes a message in one piece, so that it travels in one segment
// (RFC 7766 §8). After a failure in the middle nothing more can be sent.
func (c *streamConn) send(ctx context.Context, query *dns.Msg) error {
	raw, err := query.Pack()
	if err != nil {
		return fmt.Errorf("%w: %w", errMalformed, err)
	}
	c.write.Lock()
	defer c.write.Unlock()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(streamIdle)
	}
	_ = c.conn.SetWriteDeadline(deadline)
	framed := append(binary.BigEndian.AppendUint16(nil, uint16(len(raw))), raw...)
	if _, err := c.conn.Write(framed); err != nil {
		err = fmt.Errorf("%w: %w", errGone, err)
		c.end(err)
		return err
	}
	return nil
}

// read hands each message to who waits for it, until the connection ends.
func (c *streamConn) read() {
	var head [2]byte
	for {
		if _, err := io.ReadFull(c.conn, head[:]); err != nil {
			c.end(fmt.Errorf("%w: %w", errGone, err))
			return
		}
		raw := make([]byte, binary.BigEndian.Uint16(head[:]))
		if _, err := io.ReadFull(c.conn, raw); err != nil {
			c.end(fmt.Errorf("%w: %w", errGone, err))
			return
		}
		c.deliver(raw)
	}
}

// deliver finds the query that a message answers.
func (c *streamConn) deliver(raw []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = time.Now()
	var w *waiter
	if len(raw) >= 2 {
		w = c.waiting[binary.BigEndian.Uint16(raw)]
	}
	if w == nil {
		c.dropped.Of("id").Inc()
		return
	}
	// Nobody else can answer on a stream: the letters' case does not matter.
	reply, err := parseReply(raw, query{msg: w.query})
	if err != nil {
		c.dropped.Of(dropReason(err)).Inc()
	}
	select {
	case w.done <- outcome{reply: reply, err: err}:
		c.answered++
	default: // it has an answer already
	}
}

// end closes the connection and tells all who wait.
func (c *streamConn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	_ = c.conn.Close()
	for _, w := range c.waiting {
		select {
		case w.done <- outcome{err: err}:
			c.unanswered++
		default:
		}
	}
}

func (c *streamConn) retire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.retired = true
	if len(c.waiting) == 0 {
		_ = c.conn.Close()
	}
}
