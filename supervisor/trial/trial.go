// Package trial connects through a proxy once, as a client does, and notes how
// long each step takes and what came of it.
//
//	report := trial.Run(ctx, trial.Options{Protocol: "socks5", Address: "127.0.0.1:1080", To: to}, nil)
package trial

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"cleversocks/conn/wire"
)

// Protocols are the ones that a trial speaks.
var Protocols = []string{"socks5", "socks4", "http"}

// Options is what to try.
type Options struct {
	Protocol string      // one of Protocols
	Network  string      // tcp or unix; "": tcp
	Address  string      // of the proxy
	TLS      *tls.Config // nil: the proxy speaks none
	From     netip.Addr  // the client's own address; invalid: any
	User     string      // "": give none
	Password string
	To       wire.Addr
	// Get asks the target for this path over HTTP, once connected; "": nothing.
	Get string
	// FirstByte waits for the target to say something of its own accord.
	FirstByte bool
}

// Step is one part of the way.
type Step struct {
	Name   string  `json:"step"` // resolve, connect, tls, greeting, login, request, first_byte
	Took   float64 `json:"ms"`
	Detail string  `json:"detail,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// Report is what came of a trial.
type Report struct {
	Proxy string  `json:"proxy"`
	User  string  `json:"user,omitempty"`
	To    string  `json:"to"`
	OK    bool    `json:"ok"`
	Steps []Step  `json:"steps"`
	Total float64 `json:"total_ms"`
	// Reply is the proxy's, by the name that it has in its records; "" when it
	// gave none.
	Reply string `json:"reply,omitempty"`
	// Bound is the address that the proxy says it connected from.
	Bound string `json:"bound,omitempty"`
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"` // what an operator can do about it
}

// trial is one under way.
type trial struct {
	Options
	report Report
	told   func(Step)
	conn   net.Conn
}

// failure is an error with advice.
type failure struct {
	err  error
	hint string
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func failed(hint, format string, args ...any) error {
	return &failure{fmt.Errorf(format, args...), hint}
}

// Run makes one connection, under ctx's deadline, and closes it. told hears of
// each step when it has ended; nil: nobody does.
func Run(ctx context.Context, o Options, told func(Step)) Report {
	t := &trial{Options: o, told: told, report: Report{Proxy: o.describe(), User: o.User, To: o.To.String(), Steps: []Step{}}}
	begun := time.Now()
	err := t.run(ctx)
	if t.conn != nil {
		_ = t.conn.Close() // what it was for is done
	}
	t.report.Total = milliseconds(time.Since(begun))
	t.report.OK = err == nil
	if err != nil {
		t.report.Error = err.Error()
		if f, ok := errors.AsType[*failure](err); ok {
			t.report.Hint = f.hint
		}
	}
	return t.report
}

func (o *Options) describe() string {
	scheme := o.Protocol
	if o.TLS != nil {
		scheme += "+tls"
	}
	if o.Network == "unix" {
		return scheme + "://unix:" + o.Address
	}
	return scheme + "://" + o.Address
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// step does a part of the way. Its error ends the trial.
func (t *trial) step(name string, do func() (detail string, err error)) error {
	begun := time.Now()
	detail, err := do()
	s := Step{Name: name, Took: milliseconds(time.Since(begun)), Detail: detail}
	if err != nil {
		err = plain(err)
		s.Error = err.Error()
	}
	t.report.Steps = append(t.report.Steps, s)
	if t.told != nil {
		t.told(s)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// plain words the errors of a socket for a person.
func plain(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return failed("", "no answer in time")
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return failed("is this the protocol that the listener speaks, with or without TLS? The proxy's log says what it made of it", "the proxy closed the connection")
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return failed("a proxy resets clients that are banned, come too fast, are too many, or are not in allow_from: see its log and `cleversocks bans`", "the proxy reset the connection")
	}
	return err
}

func (t *trial) run(ctx context.Context) error {
	if err := t.reach(ctx); err != nil {
		return err
	}
	if t.TLS != nil {
		if err := t.step("tls", func() (string, error) { return t.handshake(ctx) }); err != nil {
			return err
		}
	}
	ask := map[string]func() error{"socks5": t.socks5, "socks4": t.socks4, "http": t.http}[t.Protocol]
	if ask == nil {
		return fmt.Errorf("there is no protocol %q", t.Protocol)
	}
	if err := ask(); err != nil {
		return err
	}
	switch {
	case t.Get != "":
		return t.step("first_byte", t.get)
	case t.FirstByte:
		return t.step("first_byte", func() (string, error) { return t.hear("") })
	}
	return nil
}

// reach connects to the proxy.
func (t *trial) reach(ctx context.Context) error {
	dialer := &net.Dialer{}
	dialer.SetMultipathTCP(false)
	network, address := "tcp", t.Address
	if t.Network == "unix" {
		network = "unix"
	} else {
		if t.From.IsValid() {
			dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(t.From, 0))
		}
		host, port, err := net.SplitHostPort(t.Address)
		if err != nil {
			return fmt.Errorf("proxy: %q is not HOST:PORT", t.Address)
		}
		if _, err := netip.ParseAddr(host); err != nil {
			if err := t.step("resolve", func() (string, error) {
				found, err := net.DefaultResolver.LookupHost(ctx, host)
				if err != nil {
					return "", err
				}
				address = net.JoinHostPort(found[0], port)
				return strings.Join(found, ", "), nil
			}); err != nil {
				return err
			}
		}
	}
	return t.step("connect", func() (string, error) {
		c, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return "", unreachable(err)
		}
		t.conn = c
		if deadline, ok := ctx.Deadline(); ok {
			err = c.SetDeadline(deadline)
		}
		if network == "unix" {
			return "", err
		}
		return "from " + c.LocalAddr().String(), err
	})
}

func unreachable(err error) error {
	if errors.Is(err, syscall.ECONNREFUSED) {
		return failed("does the daemon run, and listen there? `cleversocks status`", "nobody listens there")
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && !op.Timeout() {
		return op.Err
	}
	return err
}

func (t *trial) handshake(ctx context.Context) (string, error) {
	c := tls.Client(t.conn, t.TLS)
	if err := c.HandshakeContext(ctx); err != nil {
		if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
			return "", failed("the listener speaks no TLS", "the answer is not TLS")
		}
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
			return "", failed("name the authority by --ca, the name by --tls-name, or go on without by --insecure", "the certificate is not trusted: %w", err)
		}
		if errors.Is(err, syscall.ECONNRESET) {
			// What a listener without TLS does not read resets the connection, or not.
			return "", failed("does the listener speak TLS? Clients that are banned, too many, or not in allow_from are reset, too", "the proxy reset the connection")
		}
		return "", err
	}
	t.conn = c
	state := c.ConnectionState()
	detail := tls.VersionName(state.Version)
	if len(state.PeerCertificates) > 0 {
		leaf := state.PeerCertificates[0]
		detail += fmt.Sprintf(", certificate for %s until %s", strings.Join(append(leaf.DNSNames, leaf.Subject.CommonName), " "), leaf.NotAfter.Format(time.DateOnly))
	}
	return detail, nil
}

// get asks the target over HTTP. Any answer will do.
func (t *trial) get() (string, error) {
	host := t.To.Authority()
	if t.To.Port == 80 {
		host = t.To.Host()
	}
	return t.hear(fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: cleversocks\r\nConnection: close\r\n\r\n", t.Get, host))
}

// hear sends something and reads the beginning of what comes back.
func (t *trial) hear(send string) (string, error) {
	if _, err := io.WriteString(t.conn, send); err != nil {
		return "", targetError(err)
	}
	buf := make([]byte, 256)
	n, err := t.conn.Read(buf)
	if n == 0 && err != nil {
		return "", targetError(err)
	}
	line, _, _ := strings.Cut(string(buf[:n]), "\n")
	return strings.TrimRight(strings.ToValidUTF8(line, "?"), "\r"), nil
}

func targetError(err error) error {
	if errors.Is(err, io.EOF) {
		return failed("", "the target closed the connection")
	}
	if errors.Is(err, syscall.ECONNRESET) {
		return failed("", "the target reset the connection")
	}
	return err
}
