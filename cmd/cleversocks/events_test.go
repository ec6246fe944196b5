package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
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
