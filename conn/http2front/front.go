// Package http2front is HTTP/2's side of a client's connection: many requests
// in one, each of which it hands on as a connection of its own that speaks
// HTTP/1.1. Whoever serves those needs to know nothing of HTTP/2.
//
//	err := http2front.Serve(ctx, conn, r, http2front.Options{Open: group.admit})
//
// It stands on x/net/http2's framer and not on its server, which ends a stream
// when its handler returns: a destination that has said all it wants would cut
// off what the client still sends (RFC 9113 §8.5).
package http2front

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"cleversocks/conn/task"
)

// Preface is what a client of HTTP/2 begins with (RFC 9113 §3.4).
const Preface = http2.ClientPreface

// Options is what Serve needs.
type Options struct {
	// Open takes a request's connection over and serves it in a task of its
	// own, or refuses it: then it is still the caller's.
	Open func(Stream) (refused bool)
	// Idle ends a connection that has had no stream for as long; it also
	// bounds how long a client may leave our bytes unread. Required.
	Idle time.Duration
	// Drain, once it ends, opens no more streams; those that are there go on.
	Drain  context.Context //nolint:containedctx // an event, not a scope
	Panics *task.Reporter
	// Full hears of each stream that is refused because there are too many; nil: nobody
	// does.
	Full func()
}

// Stream is one request's connection.
type Stream interface {
	net.Conn
	CloseWrite() error
	// OnReset calls a function once, when the client resets the stream.
	OnReset(func())
}

// Bounds of what a client may have us hold.
const (
	MaxStreams  = 128       // at a time
	maxSessions = 256       // at a time, those whose stream has ended included
	window      = 128 << 10 // bytes of a stream that nobody has read yet
	maxHeaders  = 64 << 10  // of a request
	maxOutFrame = 16 << 10
	maxSettings = 32 // in one frame; there are seven
)

// connWindow is what a client may send beyond what streams have taken. It bounds
// nothing, since each stream's own window does, so it is large and given back in large
// parts.
const (
	connWindow = 1 << 30
	connGive   = 1 << 20
)

// sessionPatience is how long a new stream waits for a session to end, where there
// are as many as may be. Those of streams that have ended need nothing of the client.
const sessionPatience = time.Second

// Frames that cost the client nothing and us something (resets, pings,
// settings, empty data) come out of a bucket. What goes beyond it is a flood.
const (
	cheapBurst  = 400
	cheapSecond = 100
)

// errFlood is a client that sends frames for the sake of them.
var errFlood = http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)

// front is one client connection.
type front struct {
	conn   net.Conn
	opts   *Options
	framer *http2.Framer

	out     sync.Mutex // held while frames are written
	writer  *bufio.Writer
	encoder *hpack.Encoder
	block   headerBlock

	scope *task.Scope // of the answers that are translated

	mu        sync.Mutex
	streams   map[uint32]*stream
	open      int        // streams that the client knows to be open, or will: see stream.leave
	serving   int        // sessions that have not ended, whose stream may have
	ended     *sync.Cond // one of them has
	last      uint32
	window    int64 // of the connection, for our data
	initial   int64 // of a new stream, for our data
	maxFrame  int
	leaving   bool // GOAWAY was sent
	err       error
	cheap     float64
	owed      int // bytes of the connection's window to be given back; the reader's
	cheapTime time.Time
}

// Serve speaks HTTP/2 with a client until either side has enough, or ctx ends.
// r reads conn and stands before the client's preface. It does not close conn.
// All streams have ended for their sessions when it returns; these may still be
// at work.
func Serve(ctx context.Context, conn net.Conn, r *bufio.Reader, o Options) error {
	f := &front{
		conn: conn, opts: &o, writer: bufio.NewWriterSize(conn, 32<<10), streams: make(map[uint32]*stream),
		window: 65535, initial: 65535, maxFrame: maxOutFrame, cheap: cheapBurst, cheapTime: time.Now(),
	}
	f.ended = sync.NewCond(&f.mu)
	f.framer = http2.NewFramer(f.writer, r)
	f.framer.SetReuseFrames()
	f.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	f.framer.MaxHeaderListSize = maxHeaders
	f.framer.SetMaxReadFrameSize(16 << 10)
	f.encoder = hpack.NewEncoder(&f.block)
	if _, err := r.Discard(len(Preface)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	defer context.AfterFunc(o.Drain, f.leave)() //nolint:contextcheck // an event of the daemon's
	f.scope, _ = task.New(ctx, o.Panics, "http2front")
	defer func() { _ = f.scope.Wait() }() // they end with their streams
	err := f.greet()
	if err == nil {
		err = f.read(ctx)
	}
	f.fail(err)
	if code, ok := errors.AsType[http2.ConnectionError](err); ok {
		f.goAway(http2.ErrCode(code))
	}
	return err
}

// greet sends our settings (RFC 9113 §3.4).
func (f *front) greet() error {
	return f.write(func() error {
		err := f.framer.WriteSettings(
			http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: MaxStreams},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: window},
			http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeaders},
		)
		if err != nil {
			return err
		}
		return f.framer.WriteWindowUpdate(0, connWindow)
	})
}

// write sends frames.
func (f *front) write(frames func() error) error {
	f.out.Lock()
	defer f.out.Unlock()
	_ = f.conn.SetWriteDeadline(time.Now().Add(f.opts.Idle)) // one that expired fails the write
	if err := frames(); err != nil {
		return err
	}
	return f.writer.Flush()
}

// read takes frames in until the connection ends.
func (f *front) read(ctx context.Context) error {
	for {
		f.mu.Lock()
		none := len(f.streams) == 0
		f.mu.Unlock()
		var until time.Time
		if none {
			until = time.Now().Add(f.opts.Idle)
		}
		_ = f.conn.SetReadDeadline(until)
		// What ended it may have set a deadline before the one above.
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case f.finished():
			return nil
		}
		frame, err := f.framer.ReadFrame()
		if err == nil {
			err = f.take(frame)
		}
		var ofStream http2.StreamError
		switch {
		case errors.As(err, &ofStream):
			if err = f.spend(); err != nil {
				return err
			}
			f.reset(ofStream.StreamID, ofStream.Code)
		case err != nil && f.finished():
			return nil
		case err != nil:
			return err
		}
	}
}

// finished reports a connection that said goodbye and has nothing left to do.
func (f *front) finished() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leaving && len(f.streams) == 0
}

// take carries one frame out.
func (f *front) take(frame http2.Frame) error {
	switch frame := frame.(type) {
	case *http2.MetaHeadersFrame:
		return f.headers(frame)
	case *http2.DataFrame:
		return f.data(frame)
	case *http2.SettingsFrame:
		return f.settings(frame)
	case *http2.WindowUpdateFrame:
		return f.windowUpdate(frame)
	case *http2.RSTStreamFrame:
		if err := f.spend(); err != nil {
			return err
		}
		f.mu.Lock()
		s := f.streams[frame.StreamID]
		f.mu.Unlock()
		if s != nil {
			s.wasReset(frame.ErrCode)
		}
	case *http2.PingFrame:
		if err := f.spend(); err != nil || frame.IsAck() {
			return err
		}
		return f.write(func() error { return f.framer.WritePing(true, frame.Data) })
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	case *http2.GoAwayFrame:
		// It opens no more streams. Its end of the connection tells the rest.
		return f.spend()
	default: // PRIORITY, and what we do not know
		return f.spend()
	}
	return nil
}

// spend takes a frame out of the bucket.
func (f *front) spend() error {
	now := time.Now()
	f.cheap = min(cheapBurst, f.cheap+now.Sub(f.cheapTime).Seconds()*cheapSecond)
	f.cheapTime = now
	if f.cheap--; f.cheap < 0 {
		return errFlood
	}
	return nil
}

// data gives a stream what came for it.
func (f *front) data(frame *http2.DataFrame) error {
	size := int(frame.Length)
	if len(frame.Data()) == 0 && !frame.StreamEnded() {
		if err := f.spend(); err != nil {
			return err
		}
	}
	f.mu.Lock()
	s := f.streams[frame.StreamID]
	unknown := frame.StreamID > f.last
	f.mu.Unlock()
	if unknown {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	if f.owed += size; f.owed >= connGive {
		give := uint32(f.owed)
		f.owed = 0
		if err := f.write(func() error { return f.framer.WriteWindowUpdate(0, give) }); err != nil {
			return err
		}
	}
	if s == nil {
		return nil // one that has just ended here
	}
	return s.receive(frame.Data(), size, frame.StreamEnded())
}

func (f *front) settings(frame *http2.SettingsFrame) error {
	if err := f.spend(); err != nil || frame.IsAck() {
		return err
	}
	if frame.NumSettings() > maxSettings {
		return errFlood // each may be one of the window of all streams
	}
	err := frame.ForeachSetting(func(s http2.Setting) error {
		if err := s.Valid(); err != nil {
			return err
		}
		switch s.ID {
		case http2.SettingInitialWindowSize:
			return f.resize(int64(s.Val))
		case http2.SettingMaxFrameSize:
			f.mu.Lock()
			f.maxFrame = min(int(s.Val), maxOutFrame)
			f.mu.Unlock()
		case http2.SettingHeaderTableSize:
			f.out.Lock()
			f.encoder.SetMaxDynamicTableSize(min(s.Val, 4096))
			f.out.Unlock()
		default:
		}
		return nil
	})
	if err != nil {
		return err
	}
	return f.write(f.framer.WriteSettingsAck)
}

// resize changes what every stream may send (RFC 9113 §6.9.2).
func (f *front) resize(to int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	by := to - f.initial
	f.initial = to
	for _, s := range f.streams {
		if s.window += by; s.window > 1<<31-1 {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		s.change.Broadcast()
	}
	return nil
}

func (f *front) windowUpdate(frame *http2.WindowUpdateFrame) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	by := int64(frame.Increment)
	if frame.StreamID == 0 {
		waited := f.window <= 0
		if f.window += by; f.window > 1<<31-1 {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
		if !waited {
			return nil // nobody waits for it, and such frames cost the client nothing
		}
		// Clients send one for each piece of data that they take: those who wait for
		// data of theirs, as most of the streams do, are left asleep.
		for _, s := range f.streams {
			if s.wantRoom {
				s.change.Broadcast()
			}
		}
		return nil
	}
	s := f.streams[frame.StreamID]
	if s == nil {
		return nil
	}
	if s.window += by; s.window > 1<<31-1 {
		return http2.StreamError{StreamID: frame.StreamID, Code: http2.ErrCodeFlowControl}
	}
	s.change.Broadcast()
	return nil
}

// reset ends a stream from our side.
func (f *front) reset(id uint32, code http2.ErrCode) {
	f.mu.Lock()
	s := f.streams[id]
	f.mu.Unlock()
	if s != nil {
		s.wasReset(code)
	}
	_ = f.write(func() error { return f.framer.WriteRSTStream(id, code) }) // a dead connection ends by its reader
}

// leave tells the client that no more streams are opened, and goes on with
// those that are there.
func (f *front) leave() {
	f.goAway(http2.ErrCodeNo)
	f.mu.Lock()
	none := len(f.streams) == 0
	f.mu.Unlock()
	if none {
		_ = f.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

func (f *front) goAway(code http2.ErrCode) {
	f.mu.Lock()
	f.leaving = true
	last := f.last
	f.mu.Unlock()
	_ = f.write(func() error { return f.framer.WriteGoAway(last, code, nil) }) // likewise
}

// fail ends all streams: the connection is gone.
func (f *front) fail(err error) {
	if err == nil {
		err = net.ErrClosed
	}
	f.mu.Lock()
	f.err = err
	streams := make([]*stream, 0, len(f.streams))
	for _, s := range f.streams {
		streams = append(streams, s)
	}
	f.mu.Unlock()
	for _, s := range streams {
		s.wasReset(http2.ErrCodeCancel)
	}
}

// forget lets a stream go whose two directions have ended.
func (f *front) forget(s *stream) {
	f.mu.Lock()
	delete(f.streams, s.id)
	done := f.leaving && len(f.streams) == 0
	f.mu.Unlock()
	if done {
		_ = f.conn.SetReadDeadline(time.Unix(1, 0)) // nothing is left to wait for
	}
}
