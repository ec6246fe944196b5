package collector

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// patience is for machines with both cores busy.
const patience = 20 * time.Second

const textLine = `time=2026-11-29T10:11:12.345Z level=INFO msg=connection id=7 user="a\nb" bytes_in=12` + "\n"

func open(t *testing.T, o Options) *Collector {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := New(t.Context(), o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// receiver is a socket that collects datagrams.
func receiver(t *testing.T, network, address string) *net.UnixConn {
	t.Helper()
	c, err := net.ListenUnixgram(network, &net.UnixAddr{Net: network, Name: address})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func next(t *testing.T, c net.Conn) string {
	t.Helper()
	buf := make([]byte, 64<<10)
	_ = c.SetReadDeadline(time.Now().Add(patience))
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func write(t *testing.T, c *Collector, lines string) {
	t.Helper()
	if n, err := c.Write([]byte(lines)); n != len(lines) || err != nil {
		t.Fatalf("wrote %d of %d: %v", n, len(lines), err)
	}
}

// The header has what RFC 5424 wants, and the time is the record's, however long
// it waited. The line's own time and level are left out of a text; JSON stays whole.
func TestSyslogMessage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	r := receiver(t, "unixgram", path)
	c := open(t, Options{Network: "unix", Address: path, Facility: 16})
	write(t, c, textLine+`{"time":"2026-11-29T10:11:12.123456789Z","level":"INFO","msg":"connection"}`+"\n")
	header := `^<134>1 2026-11-29T10:11:12\.%sZ [!-~]{1,255} cleversocks [0-9]+ access - `
	if got := next(t, r); !regexp.MustCompile(fmt.Sprintf(header, "345000") + `msg=connection id=7 user="a\\nb" bytes_in=12$`).MatchString(got) {
		t.Errorf("text: %q", got)
	}
	if got := next(t, r); !regexp.MustCompile(fmt.Sprintf(header, "123456") + `\{"time":.*\}$`).MatchString(got) {
		t.Errorf("JSON: %q", got)
	}
	old := open(t, Options{Network: "unix", Address: path, Facility: 3, Old: true})
	write(t, old, textLine)
	if got := next(t, r); !regexp.MustCompile(`^<30>Nov 29 \d\d:\d\d:12 cleversocks\[\d+\]: msg=connection `).MatchString(got) {
		t.Errorf("RFC 3164: %q", got)
	}
}

// A message is bounded, and cut between characters.
func TestLongMessage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	r := receiver(t, "unixgram", path)
	c := open(t, Options{Network: "unix", Address: path})
	write(t, c, "time=2026-11-29T10:11:12.345Z level=INFO msg="+strings.Repeat("é", maxMessage)+"\n")
	if got := next(t, r); len(got) > maxMessage || len(got) < maxMessage-4 || strings.ToValidUTF8(got, "") != got {
		t.Errorf("%d bytes", len(got))
	}
}

// frames reads octet-counted messages.
func frames(r *bufio.Reader) (string, error) {
	length, err := r.ReadString(' ')
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(strings.TrimSpace(length))
	if err != nil {
		return "", err
	}
	message := make([]byte, n)
	_, err = io.ReadFull(r, message)
	return string(message), err
}

// Over TCP, messages are counted, and a server that was restarted gets what
// comes after: the connection of before is seen to have ended, where a write
// into it would lose a record without a word.
func TestTCPServerRestarts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := open(t, Options{Network: "tcp", Address: l.Addr().String()})
	for i := range 3 {
		write(t, c, fmt.Sprintf("msg=connection id=%d\nmsg=connection id=%d-b\n", i, i))
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		r := bufio.NewReader(conn)
		for _, want := range []string{fmt.Sprintf("id=%d", i), fmt.Sprintf("id=%d-b", i)} {
			if got, err := frames(r); err != nil || !strings.HasSuffix(got, want) {
				t.Fatalf("%q, %v; want %s", got, err, want)
			}
		}
		address := l.Addr().String()
		_ = conn.Close()
		_ = l.Close()
		// The loopback's end of stream has arrived when a new server can listen.
		if l, err = net.Listen("tcp", address); err != nil {
			t.Fatal(err)
		}
	}
	_ = l.Close()
}

// lines is a log, a line at a time.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// A collector that is not there yet gets the lines when it is; somebody is told
// once that it is missed and once that it is back.
func TestAbsentAtFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	told := make(lines, 8)
	c := open(t, Options{Network: "unix", Address: path, Log: slog.New(slog.NewTextHandler(told, nil))})
	done := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte(textLine + textLine))
		done <- err
	}()
	first := <-told
	c.Reopen() // as SIGHUP does
	r := receiver(t, "unixgram", path)
	c.Reopen()
	next(t, r)
	next(t, r)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if then := <-told; !strings.Contains(first, "does not answer") || !strings.Contains(then, "answers again") || len(told) > 0 {
		t.Errorf("told %q, %q, and %d more", first, then, len(told))
	}
}

// Close ends a wait for a collector that never comes, and for one that never
// reads, and tells what was sent.
func TestCloseDoesNotWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, o := range map[string]Options{
		"absent":      {Network: "unix", Address: path},
		"never reads": {Network: "tcp", Address: l.Addr().String()},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, o)
			lines := []byte(strings.Repeat("msg=x "+strings.Repeat("y", 1000)+"\n", 20000))
			done := make(chan struct{})
			var n int
			go func() {
				defer close(done)
				n, err = c.Write(lines)
			}()
			time.AfterFunc(2*firstPause, func() { _ = c.Close() })
			select {
			case <-done:
			case <-time.After(patience):
				t.Fatal("it waits")
			}
			if !errors.Is(err, errClosed) || n >= len(lines) || n > 0 && lines[n-1] != '\n' {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
}

// journal reads a native datagram.
func journal(t *testing.T, datagram string) map[string]string {
	t.Helper()
	fields := make(map[string]string)
	for datagram != "" {
		line, rest, ok := strings.Cut(datagram, "\n")
		if !ok {
			t.Fatalf("no end: %q", datagram)
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			n := binary.LittleEndian.Uint64([]byte(rest))
			value, rest = rest[8:8+n], rest[8+n+1:]
		}
		if _, twice := fields[name]; twice {
			t.Errorf("%s twice", name)
		}
		fields[name], datagram = value, rest
	}
	return fields
}

// What strangers chose makes no field of its own, and is whole.
func TestJournald(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	r := receiver(t, "unixgram", path)
	for _, asJSON := range []bool{false, true} {
		c := open(t, Options{Network: "unix", Address: path, Journald: true, JSON: asJSON})
		line := `{"time":"2026-11-29T10:11:12.5Z","level":"INFO","msg":"connection","id":"7","user":"eve\nPRIORITY=0","bytes_in":9007199254740993,"duration_ms":1.5}`
		write(t, c, line+"\n")
		got := journal(t, next(t, r))
		message := `msg=connection id=7 user="eve\nPRIORITY=0" bytes_in=9007199254740993 duration_ms=1.5`
		if asJSON {
			message = line
		}
		for name, want := range map[string]string{
			"MESSAGE": message, "PRIORITY": "6", "SYSLOG_IDENTIFIER": "cleversocks", "CLEVERSOCKS_ID": "7",
			"CLEVERSOCKS_USER": "eve\nPRIORITY=0", "CLEVERSOCKS_BYTES_IN": "9007199254740993", "CLEVERSOCKS_DURATION_MS": "1.5",
			"SYSLOG_TIMESTAMP": "2026-11-29T10:11:12.5Z",
		} {
			if got[name] != want {
				t.Errorf("%s is %q, want %q", name, got[name], want)
			}
		}
		if len(got) != 8 {
			t.Errorf("fields: %v", got)
		}
	}
}

// A UDP server that is away for a while costs datagrams and no more: the
// refusal that comes back is the one before's.
func TestUDPServerAway(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := pc.LocalAddr().String()
	c := open(t, Options{Network: "udp", Address: address})
	write(t, c, textLine)
	_ = pc.Close()
	for range 4 {
		write(t, c, textLine)
	}
	if pc, err = net.ListenPacket("udp", address); err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got := make(chan struct{})
	go func() {
		defer close(got)
		buf := make([]byte, 1024)
		_ = pc.SetReadDeadline(time.Now().Add(patience))
		if _, _, err := pc.ReadFrom(buf); err != nil {
			t.Error(err)
		}
	}()
	for {
		write(t, c, textLine)
		select {
		case <-got:
			return
		case <-ctx.Done():
			t.Fatal("nothing came")
		case <-time.After(firstPause):
		}
	}
}

// A name of the host that is no header field does not break the header.
func TestPrintUSASCII(t *testing.T) {
	for in, want := range map[string]string{"a b\n": "ab", "": "-", "é": "-", "host.example": "host.example"} {
		if got := printUSASCII(in, 255); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// haproxy loses its logs for ever when rsyslog restarts: the socket's file is
// another one then, and a connected socket knows the old one alone.
func TestLocalServerRestarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	c := open(t, Options{Network: "unix", Address: path})
	for range 3 {
		r := receiver(t, "unixgram", path)
		write(t, c, textLine)
		next(t, r)
		_ = r.Close()
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
}
