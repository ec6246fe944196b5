// Package learn turns what the rules denied, or would have denied under
// acl.report_only, into the smallest allowlist that lets it through.
//
//	var seen learn.Seen
//	err := seen.ReadLog(file)
//	err = learn.WriteTOML(out, &seen, seen.Rules(learn.Options{}))
package learn

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/conn/wire"
)

// Bounds of what is read. A longer line is skipped and counted; more different
// requests are an error.
const (
	maxLine = 64 << 10
	maxSeen = 200_000
)

// Request is one that was denied, or would have been.
type Request struct {
	Time    time.Time
	User    string // "": none
	Client  netip.Addr
	Command string
	Target  string     // HOST:PORT, as the client asked for it
	Address netip.Addr // what the name was resolved to, if that was judged
	Rule    string     // what denied it
	ID      string     // of the connection, which is counted once; "": unknown
}

// want is what a rule has to let through.
type want struct {
	user    string     // "": anybody from client
	client  netip.Addr // only without a user
	dest    string     // a name, or an address
	port    uint16
	command string
}

// count is how often it was seen.
type count struct {
	times       int
	first, last time.Time
	name        string // that was asked for, where dest is an address all the same
	id          string // of the connection that was counted last
}

// Seen collects requests. The zero value has none.
type Seen struct {
	wants map[want]*count
	// Total is the requests in it, Own those to the proxy itself, which nothing
	// allows, Skipped the lines that are none.
	Total, Own, Skipped int
	First, Last         time.Time
}

var errTooMany = fmt.Errorf("more than %d different requests: narrow them down by --user or --since", maxSeen)

// Add notes a request. One that cannot be read is an error.
func (s *Seen) Add(r Request) error {
	host, portText, err := net.SplitHostPort(r.Target)
	if err != nil {
		return fmt.Errorf("target %q is not HOST:PORT", r.Target)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return fmt.Errorf("target %q has no port", r.Target)
	}
	dest, err := wire.ParseHost(host, uint16(port))
	if err != nil {
		return err
	}
	switch r.Command {
	case "connect", "udp", "bind":
	default:
		return fmt.Errorf("command %q", r.Command)
	}
	if s.wants == nil {
		s.wants = make(map[want]*count)
	}
	if r.Rule == aclsvc.ByOwnListener {
		s.Own++
		return nil
	}
	w := want{user: r.User, dest: dest.Host(), port: dest.Port, command: r.Command}
	if w.user == "" {
		w.client = r.Client.Unmap().WithZone("")
	}
	name := ""
	if dest.IsName() && r.Rule == aclsvc.ByBlockPrivate && r.Address.IsValid() {
		name, w.dest = w.dest, r.Address.Unmap().String() // a name lifts no block
	}
	c := s.wants[w]
	if c == nil {
		if len(s.wants) >= maxSeen {
			return errTooMany
		}
		c = &count{name: name}
		s.wants[w] = c
	}
	if r.ID != "" && c.id == r.ID {
		return nil // another address of the name, or the next datagram
	}
	c.id = r.ID
	s.Total++
	s.First, s.Last = span(s.First, s.Last, r.Time)
	c.times++
	c.first, c.last = span(c.first, c.last, r.Time)
	return nil
}

// span is a span of time with one more moment in it.
func span(first, last, t time.Time) (time.Time, time.Time) {
	if first.IsZero() || t.Before(first) {
		first = t
	}
	if t.After(last) {
		last = t
	}
	return first, last
}

// logLine is what is read of a line of the JSON log: "would be denied", and
// records of connections that were.
type logLine struct {
	Time    time.Time `json:"time"`
	Message string    `json:"msg"`
	Client  string    `json:"client"`
	User    string    `json:"user"`
	Command string    `json:"command"`
	Target  string    `json:"target"`
	Address string    `json:"address"`
	HostIP  string    `json:"host_ip"`
	Rule    string    `json:"rule"`
	Cause   string    `json:"cause"`
	ID      string    `json:"id"`
}

// Filter says which requests are wanted.
type Filter struct {
	User  string    // "": everybody's
	Since time.Time // zero: all
}

func (f *Filter) wants(r *Request) bool {
	return (f.User == "" || r.User == f.User) && !r.Time.Before(f.Since)
}

// ReadLog adds what a log has of denials, in JSON or in the text form. Other
// lines are passed over.
func (s *Seen) ReadLog(in io.Reader, f Filter) error {
	r := bufio.NewReaderSize(in, maxLine)
	for {
		line, err := r.ReadSlice('\n')
		for errors.Is(err, bufio.ErrBufferFull) {
			line = nil
			_, err = r.ReadSlice('\n')
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if request, ok := s.parse(line); ok && f.wants(&request) {
			if failed := s.Add(request); errors.Is(failed, errTooMany) {
				return failed
			} else if failed != nil {
				s.Skipped++
			}
		}
		if err != nil {
			return nil //nolint:nilerr // the end
		}
	}
}

// parse reads a line, if it is about a denial.
func (s *Seen) parse(line []byte) (r Request, ok bool) {
	if len(bytes.TrimSpace(line)) == 0 {
		return r, false
	}
	l, ok := readLine(line)
	if !ok {
		s.Skipped++
		return r, false
	}
	if l.Message != "would be denied" && (l.Message != "connection" || l.Cause != "denied") {
		return r, false
	}
	r = Request{ID: l.ID, Time: l.Time, User: l.User, Command: l.Command, Target: l.Target, Rule: l.Rule, Client: HostOf(l.Client)}
	if l.Address == "" {
		l.Address = l.HostIP
	}
	r.Address, _ = netip.ParseAddr(l.Address)
	if !r.Address.IsValid() {
		r.Address = HostOf(l.Address)
	}
	return r, true
}

// HostOf is the address of an "address:port"; invalid: there is none.
func HostOf(text string) netip.Addr {
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ap.Addr()
	}
	host, _, _ := strings.Cut(text, " ")
	addr, _ := netip.ParseAddr(host)
	return addr
}

// readLine reads a line of either form.
func readLine(line []byte) (l logLine, ok bool) {
	if start := bytes.IndexByte(line, '{'); start >= 0 && json.Unmarshal(line[start:], &l) == nil {
		return l, true // behind what a journal or a container's log puts in front
	}
	fields := textFields(string(line))
	l = logLine{
		Message: fields["msg"], Client: fields["client"], User: fields["user"], Command: fields["command"], Target: fields["target"],
		Address: fields["address"], HostIP: fields["host_ip"], Rule: fields["rule"], Cause: fields["cause"], ID: fields["id"],
	}
	l.Time, _ = time.Parse(time.RFC3339Nano, fields["time"])
	return l, l.Message != ""
}

// textFields are the key=value pairs of a line, values with blanks in quotes.
func textFields(line string) map[string]string {
	fields := make(map[string]string)
	for line != "" {
		line = strings.TrimLeft(line, " \r\n")
		end := strings.IndexAny(line, " =")
		if end < 0 {
			break
		}
		key, rest := line[:end], line[end+1:]
		if line[end] == ' ' {
			line = rest // no pair
			continue
		}
		value, err := strconv.QuotedPrefix(rest)
		if err == nil {
			line = rest[len(value):]
			value, _ = strconv.Unquote(value) // it is quoted
		} else if value, line, _ = strings.Cut(rest, " "); line == "" {
			value = strings.TrimRight(value, "\r\n")
		}
		fields[key] = value
	}
	return fields
}
