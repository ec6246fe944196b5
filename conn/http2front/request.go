package http2front

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"cleversocks/conn/wire/httpproxy"
)

// headers opens a stream, or ends one by a trailer.
func (f *front) headers(frame *http2.MetaHeadersFrame) error {
	id := frame.StreamID
	f.mu.Lock()
	if s := f.streams[id]; s != nil {
		f.mu.Unlock()
		if !frame.StreamEnded() {
			return http2.StreamError{StreamID: id, Code: http2.ErrCodeProtocol}
		}
		return s.receive(nil, 0, true) // a trailer, which nobody here judged
	}
	if id%2 == 0 || id <= f.last {
		f.mu.Unlock()
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	f.last = id
	f.awaitSession()
	full := f.open >= MaxStreams || f.serving >= maxSessions
	refuse := f.leaving || full
	s := newStream(f, id)
	if !refuse {
		f.open++
		f.serving++
		f.streams[id] = s
	}
	f.mu.Unlock()
	if full && f.opts.Full != nil {
		f.opts.Full()
	}
	if refuse {
		return http2.StreamError{StreamID: id, Code: http2.ErrCodeRefusedStream}
	}
	head, ok := requestHead(frame)
	if !ok {
		return f.turnAway(s, http2.ErrCodeProtocol)
	}
	s.inEnded = frame.StreamEnded() // nobody else has it yet
	method := frame.PseudoValue("method")
	t := &text{stream: s, head: head, method: method, chunks: bytes.HasSuffix(head, []byte(chunked+"\r\n"))}
	var conn Stream = t
	if method != http.MethodConnect {
		conn = f.newPlain(t)
	}
	if f.opts.Open(conn) {
		err := f.turnAway(s, http2.ErrCodeRefusedStream) // first: the client may ask again elsewhere
		_ = conn.Close()
		return err
	}
	return nil
}

// awaitSession waits, with the connection's mu held, while there are as many sessions
// as may be: one ends after its stream, which the client cannot see, and is not to be
// refused what our settings let it open. A client that resets its streams faster than
// we can let go of them is slowed down.
func (f *front) awaitSession() {
	if f.serving < maxSessions || f.open >= MaxStreams {
		return
	}
	over := false
	timer := time.AfterFunc(sessionPatience, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		over = true
		f.ended.Broadcast()
	})
	defer timer.Stop()
	for f.serving >= maxSessions && !over {
		f.ended.Wait()
	}
}

// turnAway ends a stream that nobody serves.
func (f *front) turnAway(s *stream, code http2.ErrCode) error {
	s.wasReset(code)
	_ = s.Close()
	return http2.StreamError{StreamID: s.id, Code: code}
}

const chunked = "Transfer-Encoding: chunked\r\n"

// requestHead is the request as HTTP/1.1 has it: the checks of a head, which
// refuse what two parsers could read apart, are those of the text.
func requestHead(frame *http2.MetaHeadersFrame) (head []byte, ok bool) {
	method, authority := frame.PseudoValue("method"), frame.PseudoValue("authority")
	scheme, path := frame.PseudoValue("scheme"), frame.PseudoValue("path")
	isConnect := method == http.MethodConnect
	switch {
	case frame.Truncated, authority == "", breaks(method + authority + scheme + path):
		return nil, false
	case isConnect && scheme+path != "":
		return nil, false // RFC 9113 §8.5; RFC 8441's is not offered
	case !isConnect && (path == "" || scheme == ""):
		return nil, false
	}
	target := authority
	if !isConnect {
		target = scheme + "://" + authority + strings.TrimPrefix(path, "*")
	}
	b := append([]byte(nil), method+" "+target+" HTTP/1.1\r\nHost: "+authority+"\r\n"...)
	var cookies []string
	sized := isConnect || frame.StreamEnded()
	for _, h := range frame.RegularFields() {
		switch h.Name {
		case "host", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te":
			continue // RFC 9113 §8.2.2; the authority stands for Host
		case "cookie": // RFC 9113 §8.2.3
			cookies = append(cookies, h.Value)
			continue
		case "content-length":
			if isConnect {
				continue
			}
			sized = true
		}
		if breaks(h.Value) {
			return nil, false
		}
		b = append(b, h.Name+": "+h.Value+"\r\n"...)
	}
	if len(cookies) > 0 {
		b = append(b, "cookie: "+strings.Join(cookies, "; ")+"\r\n"...)
	}
	if !sized {
		b = append(b, chunked...)
	}
	return append(b, "\r\n"...), !breaks(strings.Join(cookies, ""))
}

// breaks reports what would end a line of the text.
func breaks(s string) bool { return strings.ContainsAny(s, "\r\n\x00") }

// headerBlock collects an encoded header.
type headerBlock struct{ bytes.Buffer }

// answer sends a head.
func (s *stream) answer(status int, fields []httpproxy.Field, ended bool) error {
	s.f.mu.Lock()
	switch {
	case s.closed || s.outEnded:
		s.f.mu.Unlock()
		return http2.StreamError{StreamID: s.id, Code: http2.ErrCodeStreamClosed}
	case s.broken != nil:
		s.f.mu.Unlock()
		return s.broken
	}
	s.outEnded = ended
	over := ended && s.inEnded
	if over {
		s.leave()
	}
	s.f.mu.Unlock()
	err := s.f.write(func() error {
		s.f.block.Reset()
		_ = s.f.encoder.WriteField(hpack.HeaderField{Name: ":status", Value: strconv.Itoa(status)}) // into memory
		for _, f := range fields {
			switch name := strings.ToLower(f.Name); name {
			case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
			default:
				_ = s.f.encoder.WriteField(hpack.HeaderField{Name: name, Value: f.Value})
			}
		}
		return s.f.writeBlock(s.id, s.f.block.Bytes(), ended)
	})
	if over {
		s.f.forget(s)
	}
	return err
}

// writeBlock sends a header in as many frames as it takes.
func (f *front) writeBlock(id uint32, block []byte, ended bool) error {
	first := block[:min(len(block), maxOutFrame)]
	rest := block[len(first):]
	err := f.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndStream: ended, EndHeaders: len(rest) == 0})
	for err == nil && len(rest) > 0 {
		part := rest[:min(len(rest), maxOutFrame)]
		rest = rest[len(part):]
		err = f.framer.WriteContinuation(id, len(rest) == 0, part)
	}
	return err
}
