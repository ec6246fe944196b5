package conn

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// halfClosing is a pipe's end whose half-close the other end never answers.
type halfClosing struct{ net.Conn }

func (halfClosing) CloseWrite() error { return nil }

// At the deadline of a drain an association, or a BIND, whose client stayed held
// the process for two seconds more, past what an orchestrator gives it.
func TestRefusedClientsDoNotOutstayTheirSession(t *testing.T) {
	for name, tt := range map[string]struct {
		ends time.Duration // of the session, counted from the close; negative: never
		want time.Duration
	}{
		"a client of a session that goes on": {-1, lingerTime},
		"at the end of a session":            {0, lingerEnded},
		"shortly before it":                  {time.Second, time.Second + lingerEnded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ours, theirs := net.Pipe()
				defer theirs.Close()
				if tt.ends == 0 {
					cancel()
				} else if tt.ends > 0 {
					time.AfterFunc(tt.ends, cancel)
				}
				begun := time.Now()
				closePolitely(ctx, halfClosing{ours})
				if took := time.Since(begun); took != tt.want {
					t.Errorf("closed after %v, want %v", took, tt.want)
				}
			})
		})
	}
}
