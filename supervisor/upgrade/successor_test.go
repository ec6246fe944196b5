package upgrade

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"reflect"
	"testing"
	"time"
)

// successorOf is a program in sh as a successor, once it has said a word, and the end
// of the channel that it would have.
func successorOf(t *testing.T, script string) (*Successor, *channel) {
	t.Helper()
	ours, theirs := pair(t)
	cmd := exec.Command("sh", "-c", script)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &Successor{PID: cmd.Process.Pid, channel: ours, process: cmd.Process, ended: make(chan struct{})}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	go s.wait()
	t.Cleanup(func() {
		_ = s.process.Kill()
		<-s.ended
	})
	return s, theirs
}

// What is not wanted hears why, and ends; also what does not listen to signals.
func TestKill(t *testing.T) {
	s, theirs := successorOf(t, `trap "" TERM; echo; while :; do sleep 0.02; done`)
	why := errors.New("it is late")
	if err := s.Kill(t.Context(), why); !errors.Is(err, why) {
		t.Error(err)
	}
	select {
	case <-s.ended:
	case <-time.After(10 * time.Second):
		t.Error("it runs on")
	}
	p := &Predecessor{channel: theirs}
	if _, err := p.AwaitTurn(t.Context(), nil, Heard{}); err == nil || errors.Is(err, ErrGone) {
		t.Errorf("%v: it would serve in the place of one that goes on", err)
	}
}

// A predecessor that is stopped as its successor begins to serve passes the stop on:
// it killed the successor two seconds later, with the connections that drained there.
func TestStopWithTheTurn(t *testing.T) {
	s, _ := successorOf(t, `trap "drains=1" TERM; echo; while [ -z "$drains" ]; do sleep 0.02; done; exit 7`)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Yield(ctx, Turn{}); err == nil {
		t.Error("it serves")
	}
	_ = s.Kill(ctx, ctx.Err())
	select {
	case <-s.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("it was not told to stop")
	}
	if s.state != "exit status 7" {
		t.Error(s.state)
	}
}

// Settings that come too late for a process that has ended leave its last words there.
func TestLastWordsBeforeSettings(t *testing.T) {
	a, b := pair(t)
	p := &Predecessor{channel: b}
	if err := a.send(kindEvents, "closed"); err != nil {
		t.Fatal(err)
	}
	a.close()
	if err := p.Reload(Settings{}); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	heard := 0
	err := p.Listen(t.Context(), Heard{Events: func(json.RawMessage) error { heard++; return nil }})
	if !errors.Is(err, ErrGone) || heard != 1 {
		t.Errorf("heard %d, %v", heard, err)
	}
}

// One that crashes is no predecessor that goes on.
func TestPredecessorIsGone(t *testing.T) {
	a, b := pair(t)
	a.close()
	if _, err := (&Predecessor{channel: b}).AwaitTurn(t.Context(), nil, Heard{}); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
}

// The settings in force go to a process that drains as their text. A successor of an
// older version sends none: then the file is read.
func TestSettingsTravel(t *testing.T) {
	a, b := pair(t)
	from, to := &Predecessor{channel: a}, &Successor{channel: b}
	if err := a.send(kindReload, nil); err != nil { // an older version
		t.Fatal(err)
	}
	for _, text := range []string{"", "secret = \"\x00\u2028\""} {
		if err := from.Reload(Settings{Text: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := from.Reload(Settings{}); err != nil { // there is no file
		t.Fatal(err)
	}
	a.close()
	var got []Settings
	if err := to.Heed(t.Context(), Wanted{Reload: func(s Settings) { got = append(got, s) }}); !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	want := []Settings{{}, {Text: []byte{}}, {Text: []byte("secret = \"\x00\u2028\"")}, {}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
