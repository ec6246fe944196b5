// Package relay moves bytes between a client and a server until both have
// said all they want, and says why it ended.
//
//	pools := relay.NewPools(relay.PoolOptions{})
//	defer pools.Close()
//	for _, reactor := range pools.Reactors() {
//		tree.Add(reactor)
//	}
//	tunnel := relay.Start(client, server, relay.Options{
//		Idle:    15 * time.Minute,
//		Pools:   pools,
//		Metrics: &registry.Relay,
//	}, func(result relay.Result) { ... })
//
// On Linux two sockets are joined by splice(2), with small messages read and
// written. Buffers and pipes are taken when a socket is readable and given
// back when it runs dry, so an idle relay holds its two sockets and nothing
// else. With Pools, one goroutine for two processors moves the bytes of all
// relays, and only a bulk transfer has a goroutine of its own, while it lasts.
// Without Pools, or for a conn that is no socket, a relay has two to its end.
package relay

import (
	"net"
	"sync/atomic"
	"time"

	"cleversocks/metrics"
)

// DefaultBufferSize is the size of a first read, and of the copy engine's
// buffer, in bytes.
const DefaultBufferSize = 16 << 10

// Engine is the way in which bytes are moved.
type Engine uint8

// The engines of the relay.engine setting.
const (
	EngineAuto   Engine = iota // splice where both ends are sockets, else copy
	EngineSplice               // as auto, but splice from the first byte
	EngineCopy                 // read and write
)

// String is the engine's name in settings and logs.
func (e Engine) String() string {
	switch e {
	case EngineAuto:
		return "auto"
	case EngineSplice:
		return "splice"
	case EngineCopy:
		return "copy"
	}
	return "unknown"
}

// Direction is the way in which bytes go through a relay.
type Direction uint8

// The two directions. In comes from the client, as in the access record.
const (
	In  Direction = iota // client to server
	Out                  // server to client
)

// String is the direction's name in metrics.
func (d Direction) String() string {
	if d == In {
		return "in"
	}
	return "out"
}

// Counters are a relay's live byte counts. Any goroutine may read them at any
// time. A byte counts when the receiving socket has taken it.
type Counters struct {
	In  atomic.Int64 // client to server
	Out atomic.Int64 // server to client
}

// Options is what a relay may be told. The zero value works.
type Options struct {
	Engine     Engine
	BufferSize int           // bytes of a first read; 0: DefaultBufferSize
	Idle       time.Duration // the relay ends after this long, up to a quarter longer, without a byte either way; 0: never
	Counters   *Counters     // live byte counts; nil: only in Result
	Meter      Meter         // nil costs nothing
	Metrics    *metrics.Relay
	Pools      *Pools           // free buffers and pipes, shared by all relays; nil: made and dropped as needed
	Lasts      func(server int) // told of the server's descriptor once a tunnel that began at a Seat has lasted; nil: nobody is
	Panicked   func(any)        // told of a panic on a relay goroutine, which ends that relay alone
}

// Result is what there is to say about a relay that has ended.
type Result struct {
	In, Out int64  // bytes delivered, client to server and server to client
	Cause   string // one of the names of package cause
	Err     error  // what a socket, End's caller or the meter said; nil after a clean or idle end
}

// Start moves bytes between client and server until both directions have ended,
// the relay was idle for too long, or End is called. It returns at once, and owns
// both conns from the call on: nobody else may read, write, set deadlines or
// close. A tunnel that lasts closes them and goes on with bare descriptors: their
// memory is free then, if the caller keeps no reference.
//
// done is called once, when both conns are closed; no descriptor is left then.
// It must return at once: it may run on a reactor, where other relays wait. The
// caller must wait for done before it calls the relay over.
//
// An end of stream is passed on as CloseWrite and leaves the other direction
// open. A failing side is passed on as a reset, after what it sent before has
// been delivered.
func Start(client, server net.Conn, o Options, done func(Result)) *Tunnel {
	t := newTunnel(client, server, o, done)
	t.start()
	return t
}
