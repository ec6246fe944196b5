package conn

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
	"cleversocks/udprelay"
)

// Record says everything about one connection, once it has ended.
type Record struct {
	ID       string
	Listener string
	Client   netip.AddrPort
	Peer     string // who a client without an address is
	User     string
	Auth     string
	Protocol wire.Protocol
	Command  wire.Command
	Method   string         // of a plain HTTP request
	Target   wire.Addr      // as requested
	Sniffed  string         // the name that the client said first
	Host     netip.AddrPort // as dialed
	Local    netip.AddrPort // our end of that
	Upstream string
	Rule     string
	BytesIn  int64 // from the client
	BytesOut int64 // to the client
	Duration time.Duration
	Cause    string // of package cause
	Reply    wire.ReplyCode
	Replied  bool
	Err      error
	Interim  bool // the connection goes on
	Opened   bool // it begins to relay; for a watcher alone
	// Reported is set where rules would have refused Target, and acl.report_only
	// let it pass; for a watcher alone.
	Reported *Denial
	// Dropped is set where rules refused Target to a session that goes on: a
	// datagram of an association, the peer that a BIND waits for. For a watcher alone.
	Dropped *Denial

	Started   time.Time
	Handshake bool   // nothing but the client is known yet
	Requests  bool   // it carries requests, each of which is a session or has a record of its own
	Notes     string // of the listener's door: what a load balancer told

	refusal *refusal       // it was never served
	flow    *udprelay.Flow // this is about what an association moved to and from one destination
}

// record is what there is to say of a session that has ended.
func (s *session) record() *Record {
	r := s.progress()
	r.Cause, r.Reply, r.Replied, r.Err = s.cause, s.code, s.replied, s.err
	if denied, ok := errors.AsType[*deniedError](s.err); ok {
		r.Rule = denied.rule
	}
	return r
}

// progress is what does not change while a session relays: safe to call from
// any goroutine once relaying is set.
func (s *session) progress() *Record {
	return &Record{
		ID: s.ID(), Listener: s.listener, Client: s.client, Peer: s.atDoor().peer,
		User: s.identity.User, Auth: string(s.identity.Method),
		Notes:    noted(s.atDoor().notes),
		Protocol: s.protocol, Command: s.request.Command, Method: s.method, Target: s.request.Dest, Sniffed: s.sniffed,
		Host: s.hostIP, Local: s.local, Upstream: s.via().name, Rule: s.rule,
		BytesIn: s.counters.In.Load(), BytesOut: s.counters.Out.Load(),
		Duration: time.Since(s.started), Started: s.started,
	}
}

// Caller is who the client is: its address, or what its unix socket tells.
func (r *Record) Caller() string { return caller(r.Client, r.Peer) }

// attrs are the record's fields, by the names that people depend on. What a
// connection never came to have is left out.
func (r *Record) attrs() []slog.Attr {
	switch {
	case r.refusal != nil:
		return r.refusal.attrs()
	case r.flow != nil:
		return r.flowAttrs()
	}
	attrs := make([]slog.Attr, 0, 22)
	add := func(a slog.Attr) { attrs = append(attrs, a) }
	text := func(key, value string) {
		if value != "" {
			add(slog.String(key, value))
		}
	}
	address := func(key string, ap netip.AddrPort) {
		if ap.IsValid() {
			add(slog.String(key, ap.String()))
		}
	}
	text("id", r.ID)
	text("listener", r.Listener)
	text("client", r.Caller())
	text("user", r.User)
	text("auth", r.Auth)
	text("protocol", r.Protocol.String())
	if r.Command != 0 {
		text("command", r.Command.String())
	}
	text("method", r.Method)
	if r.Target.IsName() || r.Target.IP.IsValid() {
		text("target", r.Target.String())
	}
	text("sni", r.Sniffed)
	address("host_ip", r.Host)
	address("local", r.Local)
	text("door", r.Notes)
	text("upstream", r.Upstream)
	text("rule", r.Rule)
	add(slog.Int64("bytes_in", r.BytesIn))
	add(slog.Int64("bytes_out", r.BytesOut))
	add(slog.Float64("duration_ms", float64(r.Duration.Microseconds())/1000))
	text("cause", r.Cause)
	if r.Replied {
		text("reply", r.Reply.String())
	}
	if r.Client.IsValid() {
		add(slog.String("client_ip", r.Client.Addr().String()))
		add(slog.Int("client_port", int(r.Client.Port())))
	}
	if r.Err != nil && r.Cause != cause.ClientClosed && r.Cause != cause.ServerClosed {
		text("err", r.Err.Error())
	}
	return attrs
}

// AccessMode says which connections are recorded.
type AccessMode string

// The values of the setting log.access.
const (
	AccessAll    AccessMode = "all"
	AccessDenied AccessMode = "denied"
	AccessOff    AccessMode = "off"
)

// accessQueue is how many records wait for a slow log before more are
// dropped and counted.
const accessQueue = 4096

// AccessLog writes the records of ended connections, one after the other, so
// that a slow disk delays the log and no connection.
type AccessLog struct {
	log      *slog.Logger
	mode     atomic.Value // AccessMode
	queue    chan *Record
	dropped  *metrics.Counter
	watcher  func(*Record)
	refusals refusals
	wanted   func() bool
}

// NewAccessLog makes the writer. Records are lost, and counted, when nobody
// runs Serve.
func NewAccessLog(log *slog.Logger, m *metrics.Registry) *AccessLog {
	a := &AccessLog{log: log, queue: make(chan *Record, accessQueue), dropped: m.Conn.RecordsDropped}
	a.SetMode(AccessAll)
	return a
}

// Room is how many records can wait.
func (a *AccessLog) Room() int { return cap(a.queue) }

func (a *AccessLog) String() string { return "access log" }

// SetMode changes what is recorded from now on.
func (a *AccessLog) SetMode(m AccessMode) { a.mode.Store(m) }

// keeps says whether a connection that ended for this cause is recorded. Who
// asks first need not make the record.
func (a *AccessLog) keeps(why string) bool {
	switch a.mode.Load() {
	case AccessOff:
		return false
	case AccessDenied:
		return why == cause.Denied || why == cause.Refused
	}
	return true
}

// Log queues a record, if it is one to keep. It never blocks.
func (a *AccessLog) Log(r *Record) {
	if a.watcher == nil && !a.keeps(r.Cause) {
		return
	}
	a.enqueue(r)
}

func (a *AccessLog) enqueue(r *Record) {
	select {
	case a.queue <- r:
	default:
		a.dropped.Inc()
	}
}

// Serve writes records until ctx ends, and then those that still wait.
func (a *AccessLog) Serve(ctx context.Context) error {
	counts := time.NewTicker(refusalInterval)
	defer counts.Stop()
	gathered := time.NewTimer(gather)
	defer gathered.Stop()
	for {
		select {
		case r := <-a.queue:
			a.write(ctx, r)
			a.writeQueued(ctx)
			gathered.Reset(gather)
			select {
			case <-gathered.C:
			case <-ctx.Done():
			}
		case <-counts.C:
			a.writeRefusals(ctx)
		case <-ctx.Done():
			a.writeQueued(ctx)
			a.writeRefusals(ctx)
			return ctx.Err()
		}
	}
}

// gather is how long records wait once some have been written: to wake the writer for
// each of thousands a second would cost their connections more than all else here.
const gather = 5 * time.Millisecond

// writeQueued writes what waits.
func (a *AccessLog) writeQueued(ctx context.Context) {
	for {
		select {
		case r := <-a.queue:
			a.write(ctx, r)
		default:
			return
		}
	}
}

// writeRefusals writes how many were refused since the last time.
func (a *AccessLog) writeRefusals(ctx context.Context) {
	for _, r := range a.refusals.take() {
		a.write(ctx, &Record{Cause: cause.Refused, refusal: r})
	}
}

func (a *AccessLog) write(ctx context.Context, r *Record) {
	if a.watcher != nil && !r.Interim && r.refusal == nil && r.flow == nil {
		a.watcher(r)
	}
	if !r.Opened && r.Reported == nil && r.Dropped == nil && (r.Interim || a.keeps(r.Cause)) {
		a.log.LogAttrs(ctx, slog.LevelInfo, r.message(), r.attrs()...) //nolint:sloglint // one of two constants
	}
}
