// Package proxyproto reads and writes the header with which a load balancer
// tells whose connection it passes on: the PROXY protocol, versions 1 and 2
// (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt).
//
//	policy, err := proxyproto.NewPolicy(proxyproto.Required, trusted)
//	if policy.Trusts(peer) {
//		header, err := policy.Read(conn)
//		...
//	}
//
// Read takes exactly the header's bytes from the connection, so that the socket
// itself goes on to whatever follows: TLS, a handshake, and at last splice.
package proxyproto

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"

	"github.com/gaissmai/bart"
	proxy "github.com/pires/go-proxyproto"

	"cleversocks/conn/netaddr"
)

// Mode is the listener's setting proxy_protocol.
type Mode string

// The modes. A peer that is not trusted never has its header believed.
const (
	Off      Mode = "off"
	Optional Mode = "optional" // a trusted peer may send a header
	Required Mode = "required" // every peer must be trusted and send one
)

// MaxHeader bounds a version 2 header, in bytes. The protocol has up to 64 KiB;
// haproxy's with everything on, client certificate included, stays under one.
const MaxHeader = 16 << 10

// maxLine is the longest version 1 header, in bytes, with its line end.
const maxLine = 107

// fixed is the length of a version 2 header without addresses and TLVs.
const fixed = 16

// nginx writes an IPv4 client of an IPv6 listener as one of the TCP6 lines,
// against the specification and without a doubt about what it means.
// The library's own bound is a quarter of ours, less than some client certificates.
func init() { proxy.V1AcceptIPv4InTCP6, proxy.MaxV2HeaderSize = true, MaxHeader-fixed }

// ErrHeader is a header that is required and missing, or malformed.
var ErrHeader = errors.New("PROXY protocol")

// Policy says whose headers are believed. It never changes.
type Policy struct {
	mode    Mode
	trusted bart.Lite
}

// NewPolicy is the policy of a listener. Whoever is not in trusted could make
// up any client address, so a mode other than Off needs at least one range.
func NewPolicy(mode Mode, trusted []netip.Prefix) (*Policy, error) {
	p := &Policy{mode: mode}
	switch mode {
	case Off, "":
		return p, nil
	case Optional, Required:
	default:
		return nil, fmt.Errorf("proxy_protocol: %q is neither off, optional nor required", mode)
	}
	if len(trusted) == 0 {
		return nil, errors.New("proxy_protocol needs trusted_proxies: the addresses of the load balancers whose header is believed")
	}
	for _, prefix := range trusted {
		p.trusted.Insert(prefix.Masked())
	}
	return p, nil
}

// Reads reports whether a header is to be read from a peer (unmapped).
func (p *Policy) Reads(peer netip.Addr) bool {
	return p != nil && p.mode != Off && p.mode != "" && p.trusted.Contains(peer.WithZone(""))
}

// Refuses reports whether a peer has no business here: a header is required,
// and its own would not be believed.
func (p *Policy) Refuses(peer netip.Addr) bool {
	return p != nil && p.mode == Required && !p.Reads(peer)
}

// Header is what a load balancer said of a connection.
type Header struct {
	// Client and Local are the client's address and the one that it connected
	// to, unmapped; both invalid when the connection is the load balancer's own
	// (a health check), or its addresses are of no family that is known here.
	Client, Local netip.AddrPort
	TLVs          []TLV
}

// Read takes the header from a trusted peer's connection. present is false when
// there is none and none is required; then nothing was taken. The caller sets
// the deadline. An error that wraps ErrHeader is about the peer's bytes; io.EOF
// is a peer that has sent none.
func (p *Policy) Read(conn net.Conn) (h Header, present bool, err error) {
	seen, err := peekHeader(conn)
	if len(seen) == 0 && (err == nil || errors.Is(err, syscall.ECONNRESET)) {
		return Header{}, false, io.EOF // a probe, or a client that thought better of it
	}
	if err != nil {
		return Header{}, false, err
	}
	length, err := headerLength(seen)
	switch {
	case err != nil:
		return Header{}, false, err
	case length == 0 && p.mode == Required:
		return Header{}, false, fmt.Errorf("%w: no header, and one is required here", ErrHeader)
	case length == 0:
		return Header{}, false, nil
	}
	raw := make([]byte, length)
	if _, err := io.ReadFull(conn, raw); err != nil {
		return Header{}, false, fmt.Errorf("%w: %w", ErrHeader, err)
	}
	h, err = parse(raw)
	return h, err == nil, err
}

// headerLength is how many bytes the header has that begins with seen; 0 when
// it is none.
func headerLength(seen []byte) (int, error) {
	switch {
	case bytes.HasPrefix(seen, []byte("PROXY ")):
		end := bytes.IndexByte(seen, '\n')
		if end < 0 {
			return 0, fmt.Errorf("%w: no line end within %d bytes", ErrHeader, maxLine)
		}
		return end + 1, nil
	case bytes.HasPrefix(seen, proxy.SIGV2):
		if len(seen) < fixed {
			return 0, fmt.Errorf("%w: cut short", ErrHeader)
		}
		length := fixed + int(binary.BigEndian.Uint16(seen[fixed-2:]))
		if length > MaxHeader {
			return 0, fmt.Errorf("%w: a header of %d bytes; %d are accepted", ErrHeader, length, MaxHeader)
		}
		return length, nil
	}
	return 0, nil
}

// complete reports whether seen is all that headerLength needs to know.
func complete(seen []byte) bool {
	for _, signature := range [][]byte{[]byte("PROXY "), proxy.SIGV2} {
		n := min(len(seen), len(signature))
		if !bytes.Equal(seen[:n], signature[:n]) {
			continue
		}
		if signature[0] == 'P' {
			return len(seen) >= maxLine || bytes.IndexByte(seen, '\n') >= 0
		}
		return len(seen) >= fixed
	}
	return true
}

// A version 2 header's byte behind the signature is its version and command; the high
// half of the next one is the family of its addresses (§2.2).
const (
	commandAt    = 12
	commandLocal = 0x20
	commandProxy = 0x21
	unspecified  = 0
)

// parse reads one whole header.
func parse(raw []byte) (Header, error) {
	if raw[0] != 'P' && raw[commandAt] == commandLocal {
		return Header{}, nil // §2.2: the block is discarded, whatever is in it
	}
	known := raw
	if raw[0] != 'P' && raw[commandAt] == commandProxy && raw[commandAt+1] == unspecified {
		// Of a client that the load balancer has no address of: version 1's UNKNOWN.
		// The library leaves that to LOCAL.
		known = bytes.Clone(raw)
		known[commandAt] = commandLocal
	}
	parsed, err := proxy.Read(bufio.NewReaderSize(bytes.NewReader(known), max(len(known), fixed)))
	if err != nil {
		return Header{}, fmt.Errorf("%w: %w", ErrHeader, err)
	}
	var h Header
	if parsed.Version == 2 {
		if h.TLVs, err = readTLVs(raw, parsed); err != nil {
			return Header{}, err
		}
	}
	if parsed.Command.IsLocal() {
		return h, nil
	}
	client, local, ok := parsed.TCPAddrs()
	if !ok {
		return h, nil
	}
	h.Client, h.Local = netaddr.Of(client), netaddr.Of(local)
	if !h.Client.Addr().IsValid() || h.Client.Addr().IsUnspecified() {
		return Header{}, fmt.Errorf("%w: %s is no address of a client", ErrHeader, client)
	}
	return h, nil
}
