package sniff

import (
	"bytes"
	"slices"
	"strings"
)

// methods are those of HTTP and WebDAV that are taken for one. Lines of mail and
// FTP begin with words, too, and their clients must not be waited for.
var methods = []string{
	"GET ", "HEAD ", "POST ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "TRACE ", "CONNECT ",
	"PROPFIND ", "PROPPATCH ", "MKCOL ", "COPY ", "MOVE ", "LOCK ", "UNLOCK ", "REPORT ", "SEARCH ",
}

// isRequest reports whether b begins as a request does, as far as it goes.
func isRequest(b []byte) bool {
	return slices.ContainsFunc(methods, func(m string) bool { return string(b[:min(len(b), len(m))]) == m[:min(len(b), len(m))] })
}

// request reads the head of a request of HTTP/1 up to its Host.
func request(b []byte) (Words, error) {
	if !isRequest(b) {
		return Words{}, nil
	}
	first, rest, whole := bytes.Cut(b, []byte("\n"))
	if !whole {
		return Words{}, ErrShort
	}
	_, target, _ := bytes.Cut(first, []byte(" "))
	target, version, _ := bytes.Cut(bytes.TrimSuffix(target, []byte("\r")), []byte(" "))
	if !bytes.HasPrefix(version, []byte("HTTP/1.")) {
		return Words{}, nil // another protocol with such a word
	}
	words := Words{Kind: HTTP}
	host, err := hostField(rest)
	if authority, absolute := absoluteForm(string(target)); err == nil && absolute {
		host = authority // RFC 9112 §3.2.2: it counts, not the field
	}
	if err == nil && host != "" {
		words.Name, err = named(withoutPort(host))
	}
	return words, err
}

// hostField is the value of a head's one Host field; "" when it has none.
func hostField(head []byte) (host string, err error) {
	seen := false
	for {
		line, rest, whole := bytes.Cut(head, []byte("\n"))
		if !whole {
			return "", ErrShort
		}
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			return host, nil
		}
		name, value, ok := bytes.Cut(line, []byte(":"))
		if ok && strings.EqualFold(strings.TrimSpace(string(name)), "Host") {
			if seen {
				return "", ErrMalformed // RFC 9112 §3.2: who knows which one counts
			}
			seen, host = true, strings.TrimSpace(string(value))
		}
		head = rest
	}
}

// absoluteForm is the authority of a target that is a whole URL.
func absoluteForm(target string) (authority string, ok bool) {
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || strings.ContainsAny(scheme, "/?") {
		return "", false
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		rest = rest[:i]
	}
	return rest[strings.LastIndexByte(rest, '@')+1:], true
}

// withoutPort is the host of an authority.
func withoutPort(authority string) string {
	if strings.HasPrefix(authority, "[") {
		host, _, _ := strings.Cut(authority[1:], "]")
		return host
	}
	host, _, _ := strings.Cut(authority, ":")
	return host
}
