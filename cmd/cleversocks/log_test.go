package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/supervisor/config"
)

// gate is a writer that waits until it is opened, and fails as told.
type gate struct {
	open chan struct{}

	mu   sync.Mutex
	err  error
	text bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return 0, g.err
	}
	return g.text.Write(p)
}

func (g *gate) String() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.text.String()
}

// told is what a sink told of its losses.
type told struct{ begun, counted, ended uint64 }

func (l *told) count(lines uint64) { l.counted += lines }
func (l *told) begin(*sink, error) { l.begun++ }
func (l *told) end(lines uint64)   { l.ended += lines }

func openGate() *gate {
	g := &gate{open: make(chan struct{})}
	close(g.open)
	return g
}

// TestSinkNeverBlocks: a stuck reader costs lines, which are counted, and
// neither time nor memory without bound.
func TestSinkNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		lost := &told{}
		s := newSink(g, lost)
		if _, err := s.Write([]byte("first\n")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // "first" is on its way, stuck
		line := bytes.Repeat([]byte("x"), maxPending/4-1)
		line = append(line, '\n')
		for range 6 {
			if n, err := s.Write(line); n != len(line) || err != nil {
				t.Fatal(n, err)
			}
		}
		close(g.open)
		synctest.Wait()
		if *lost != (told{begun: 1, counted: 2, ended: 2}) {
			t.Errorf("of two lost lines was told: %+v", *lost)
		}
		if got := g.text.Len(); got != len("first\n")+4*len(line) {
			t.Errorf("%d bytes were written", got)
		}
		s.close()
	})
}

// TestSinkFullDisk: what fails is counted and reported once writing works.
func TestSinkFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := openGate()
		g.err = errors.New("no space left on device")
		lost := &told{}
		s := newSink(g, lost)
		for range 3 {
			if _, err := s.Write([]byte("line\n")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if *lost != (told{begun: 1, counted: 3}) {
			t.Errorf("told while the disk is full: %+v", *lost)
		}
		g.mu.Lock()
		g.err = nil
		g.mu.Unlock()
		if _, err := s.Write([]byte("works\n")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if lost.ended != 3 || g.String() != "works\n" {
			t.Errorf("told %+v, wrote %q", *lost, g)
		}
		s.close()
	})
}

// smallDisk takes some bytes and is full then.
type smallDisk struct{ room int }

func (d *smallDisk) Write(p []byte) (int, error) {
	n := min(len(p), d.room)
	if d.room -= n; n < len(p) {
		return n, errors.New("no space left on device")
	}
	return n, nil
}

// TestSinkCountsTornLinesOnce: the end of a line that a full disk had cut was tried
// again before each line after it, and counted each time as one that was lost:
// 2,441 of 2,000.
func TestSinkCountsTornLinesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lost := &told{}
		s := newSink(&smallDisk{room: len("line\nli")}, lost)
		for range 10 {
			if _, err := s.Write([]byte("line\n")); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if *lost != (told{begun: 1, counted: 9}) {
			t.Errorf("told %+v, want 9 of 10", *lost)
		}
		s.close()
	})
}

// TestSinkCloseIsBounded: a stuck reader does not hold up the exit.
func TestSinkCloseIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{open: make(chan struct{})}
		s := newSink(g, &told{})
		if _, err := s.Write([]byte("line\n")); err != nil {
			t.Fatal(err)
		}
		s.close() // returns after flushTimeout of the bubble's time
		close(g.open)
		synctest.Wait()
		if g.String() != "line\n" {
			t.Errorf("wrote %q", g)
		}
	})
}

// applyTo puts settings in force.
func applyTo(l *logs, c config.Log) error {
	change, err := l.Prepare(c)
	if err == nil {
		change.Commit()
	}
	return err
}

// TestApply changes level and format under a logger in use. Access records
// are not subject to the level.
func TestApply(t *testing.T) {
	for _, tt := range []struct {
		name string
		log  config.Log
		want []string
		not  []string
	}{
		{
			name: "text", log: config.Log{Level: "info", Format: "text"},
			want: []string{`level=INFO msg=event id=7 took=1m0s`, `msg=connection cause=client_closed`}, not: []string{"tracing"},
		},
		{
			name: "trace", log: config.Log{Level: "trace", Format: "text"},
			want: []string{`level=TRACE msg=tracing id=7`},
		},
		{
			name: "json", log: config.Log{Level: "trace", Format: "json"},
			want: []string{`"level":"TRACE","msg":"tracing","id":7`, `"cause":"client_closed"`, `"took":"1m0s"`}, // it was a bare number of nanoseconds
		},
		{
			name: "quiet", log: config.Log{Level: "error", Format: "auto"},
			want: []string{`msg=failed`, `msg=connection`}, not: []string{"event"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := openGate()
			l := newLogs(t.Context(), g, nil)
			logger := l.Logger().With("id", 7)
			tt.log.Output = stderrOutput
			if err := applyTo(l, tt.log); err != nil {
				t.Fatal(err)
			}
			logger.Error("failed")
			logger.Info("event", "took", time.Minute)
			logger.Log(t.Context(), levelTrace, "tracing")
			l.Access().Info("connection", "cause", "client_closed")
			l.Close()
			for _, want := range tt.want {
				if !strings.Contains(g.String(), want) {
					t.Errorf("%q is missing in\n%s", want, g)
				}
			}
			for _, not := range tt.not {
				if strings.Contains(g.String(), not) {
					t.Errorf("%q is in\n%s", not, g)
				}
			}
		})
	}
}

// TestApplyReopens: after a rotation lines go to the new file, and a bad path
// changes nothing.
func TestApplyReopens(t *testing.T) {
	dir := t.TempDir()
	path, access := filepath.Join(dir, "log"), filepath.Join(dir, "access")
	c := config.Log{Level: "info", Format: "text", Output: path, Access: "all", AccessOutput: access}
	l := newLogs(t.Context(), openGate(), nil)
	apply := func(c config.Log) {
		t.Helper()
		if err := applyTo(l, c); err != nil {
			t.Fatal(err)
		}
	}
	apply(c)
	logger := l.Logger()
	logger.Info("before")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	apply(c)
	logger.Info("after")
	l.Access().Info("connection")
	bad := c
	bad.AccessOutput = filepath.Join(dir, "none", "access")
	err := applyTo(l, bad)
	if !errors.Is(err, config.ErrInvalid) || !strings.Contains(fmt.Sprint(err), "log.access_output") {
		t.Errorf("got %v", err)
	}
	logger.Log(t.Context(), slog.LevelWarn, "still")
	l.Close()
	for name, want := range map[string]string{path: "after still", access: "connection"} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(string(text)) {
			_, msg, _ := strings.Cut(strings.TrimSpace(line), "msg=")
			got = append(got, msg)
		}
		if j := strings.TrimPrefix(strings.Join(got, " "), "before "); j != want {
			t.Errorf("%s has %q, want %q", name, j, want)
		}
	}
}

// TestLossIsSeen: lines that a full disk swallowed were counted in memory
// alone, and reported once there was room, which may be never. The other
// output says it at once, one time.
func TestLossIsSeen(t *testing.T) {
	for _, tt := range []struct {
		name           string
		output, access string
	}{
		{"log", "/dev/full", stderrOutput},
		{"access records", stderrOutput, "/dev/full"},
		{"both", "/dev/full", "/dev/full"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stderr := openGate()
			l := newLogs(t.Context(), stderr, nil)
			if err := applyTo(l, config.Log{Level: "info", Format: "text", Output: tt.output, Access: "all", AccessOutput: tt.access}); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				l.Logger().Info("event")
				l.Access().Info("connection")
			}
			l.Close()
			if l.Lost() < 2 {
				t.Errorf("%d lost lines were counted", l.Lost())
			}
			if n := strings.Count(stderr.String(), "log lines are being lost"); n != 1 {
				t.Errorf("said %d times:\n%s", n, stderr)
			}
		})
	}
}

// TestLossEverywhere: with both outputs stuck, each told the other of its
// loss, through a handler that was locked.
func TestLossEverywhere(t *testing.T) {
	stuck := &gate{open: make(chan struct{})}
	l := newLogs(t.Context(), stuck, nil)
	file := newSink(stuck, l)
	l.main.Store(file)
	l.logger.swap(l.handler("text", file, slog.LevelInfo))
	for _, s := range []*sink{file, l.stderr} {
		_, _ = s.Write([]byte("stuck\n"))
		for taken := false; !taken; {
			s.mu.Lock()
			if taken = len(s.pending) == 0; taken {
				s.pending = make([]byte, maxPending)
			}
			s.mu.Unlock()
		}
	}
	said := make(chan struct{})
	go func() {
		defer close(said)
		l.Logger().Info("event")
	}()
	select {
	case <-said:
	case <-time.After(patience):
		t.Fatal("logging hangs")
	}
	if l.Lost() != 2 {
		t.Errorf("%d lines were lost, want the event and the word about it", l.Lost())
	}
	close(stuck.open)
	file.close()
	l.Close()
}
