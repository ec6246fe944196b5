package listener

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/thejerf/suture/v4"
)

// faultyDoor panics on the first connection.
type faultyDoor struct {
	*door
	met bool // only the one accept loop asks
}

func (d *faultyDoor) Admit(c net.Conn, listener string) string {
	if !d.met {
		d.met = true
		panic("a defect")
	}
	return d.door.Admit(c, listener)
}

// TestPanicInTheHandler: a client on which the handler panicked hung until the
// garbage collector came by its socket. It is reset, and the accept loop is
// served anew.
func TestPanicInTheHandler(t *testing.T) {
	l, err := Open(t.Context(), options("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := &faultyDoor{door: newDoor("")}
	defer d.close()
	super := suture.New("test", suture.Spec{FailureThreshold: 20})
	for _, s := range l.Services(d) {
		super.Add(s)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := super.ServeBackground(ctx)
	defer func() { cancel(); <-ended }()
	first, err := net.DialTimeout("tcp", l.Addr().String(), patience)
	if err == nil { // else the reset came before the connect had returned
		defer first.Close()
		_ = first.SetDeadline(time.Now().Add(patience))
		_, err = first.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client sees %v, want a reset", err)
	}
	dial(t, l.Addr().String())
	select {
	case <-d.came:
	case <-time.After(patience):
		t.Error("the next client is not served")
	}
}
