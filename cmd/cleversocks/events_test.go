package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Each event is a line that says something: those about users, and how many were
// missed, were a name without a word.
func TestEventsSaySomething(t *testing.T) {
	stream := `event: user
data: {"time":"2026-11-29T10:00:00Z","user":"alice","change":"disabled"}

event: user
data: {"time":"2026-11-29T10:00:00Z","change":"imported"}

event: lost
data: {"events":7}

event: reported
data: {"time":"2026-11-29T10:00:00Z","denial":{"sentence":"user bob went on"}}

`
	var out bytes.Buffer
	c := &client{app: &app{stdout: &out}}
	if err := c.follow(strings.NewReader(stream)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
	for _, want := range []string{"  user  alice disabled\n", "  user  imported\n", "  lost  7 events: they came faster than they were taken\n", "  reported  user bob went on\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// Who follows goes on behind an upgrade, which ends the stream; not where the daemon
// has gone, or ends each stream at once.
func TestEventsAreFollowedAgain(t *testing.T) {
	for _, c := range []struct {
		lasts []time.Duration // of each stream; then there is no daemon
		want  int             // streams that are followed
	}{
		{nil, 0},
		{[]time.Duration{time.Hour}, 1},
		{[]time.Duration{time.Hour, time.Minute}, 2},
		{[]time.Duration{time.Hour, 0, time.Hour}, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			errGone := errors.New("gone")
			var said bytes.Buffer
			opened := 0
			err := (&client{app: &app{stdout: io.Discard, stderr: &said}}).followAgain(func() (io.ReadCloser, error) {
				if opened == len(c.lasts) {
					return nil, errGone
				}
				opened++
				return io.NopCloser(readerFunc(func([]byte) (int, error) {
					time.Sleep(c.lasts[opened-1]) //nolint:forbidigo // synctest's clock
					return 0, io.EOF
				})), nil
			})
			if wanted := map[bool]error{true: errGone, false: io.ErrUnexpectedEOF}[c.want == 0]; !errors.Is(err, wanted) || opened != c.want {
				t.Errorf("%v: %d followed, %v", c.lasts, opened, err)
			}
			if n := strings.Count(said.String(), "followed anew"); n != max(c.want-1, 0) {
				t.Errorf("%v: said %d times", c.lasts, n)
			}
		})
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
