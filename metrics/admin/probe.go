package admin

import (
	"bytes"
	"net"
	"regexp"
)

// probing is a connection whose first request may be a health check of HTTP/1.1
// without a Host header. A server has to refuse such a request (RFC 9112 §3.2), and
// Go's does before any handler of ours sees it; but load balancers send it when
// nobody has configured a name for them, and a refusal would take every replica
// out. It is served as one of HTTP/1.0, which needs none.
type probing struct {
	net.Conn
	begun bool
}

// probeLine is the first line of a health check.
var probeLine = regexp.MustCompile(`^(?:GET|HEAD) (?:/healthz|/readyz) HTTP/1\.1\r\n`)

func (p *probing) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if !p.begun && n > 0 {
		p.begun = true
		if line := probeLine.Find(b[:n]); line != nil && namesNoHost(b[:n]) {
			b[len(line)-3] = '0'
		}
	}
	return n, err
}

// namesNoHost reports whether a head is whole, and has no Host header.
func namesNoHost(head []byte) bool {
	head, _, whole := bytes.Cut(head, []byte("\r\n\r\n"))
	return whole && !bytes.Contains(bytes.ToLower(head), []byte("\r\nhost:"))
}

// unprobed is the connection itself.
func unprobed(c net.Conn) net.Conn {
	if p, ok := c.(*probing); ok {
		return p.Conn
	}
	return c
}
