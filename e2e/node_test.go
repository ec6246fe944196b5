package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestNodeTunnels: Node's client half-closes tunnels in one HTTP/2 connection, has
// them half-closed by the destination, which must not cut off what it still sends,
// and resets them: close(CANCEL) sends an end of stream before the reset,
// destroy(error) resets alone. A reset reaches the destination as one.
func TestNodeTunnels(t *testing.T) {
	ca := newAuthority(t)
	d := start(t, ca.tlsListener(""))
	before := d.baseline()
	run := func(t *testing.T, what string, serve func(*net.TCPConn)) string {
		t.Helper()
		target := tcpServer(t, "127.0.0.1:0", serve).String()
		ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, program(t, "node", "nodejs"), "testdata/tunnels.js", what, d.address, ca.path("ca.pem"), target)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "status 200") || !strings.Contains(string(out), "closed") {
			t.Errorf("%v: %s", err, out)
		}
		d.find("of the tunnel to "+target, func(l line) bool { return l.text("target") == target && l.text("msg") == "connection" })
		return string(out)
	}
	t.Run("the client ends first", func(t *testing.T) {
		out := run(t, "clientFirst", func(c *net.TCPConn) {
			all, _ := io.ReadAll(c)
			_, _ = c.Write(bytes.ToUpper(all))
		})
		if !strings.Contains(out, "end QUIET") {
			t.Error(out)
		}
	})
	t.Run("the destination ends first", func(t *testing.T) {
		heard := make(chan string, 1)
		out := run(t, "serverFirst", func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "bye")
			_ = c.CloseWrite()
			all, err := io.ReadAll(c)
			if err != nil {
				all = append(all, err.Error()...)
			}
			heard <- string(all)
		})
		if got := <-heard; got != "late" || !strings.Contains(out, "end bye") {
			t.Errorf("the destination heard %q; %s", got, out)
		}
	})
	for _, what := range []string{"cancel", "destroy"} {
		t.Run(what, func(t *testing.T) {
			ended := make(chan error, 1)
			run(t, what, func(c *net.TCPConn) {
				_, err := io.Copy(c, c) // an echo: hello comes back, and then it resets
				if err == nil {         // an end of stream came before the reset: a write meets that
					for err == nil {
						_, err = c.Write([]byte("more"))
					}
				}
				ended <- err
			})
			if err := <-ended; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("the destination's end is %v", err)
			}
		})
	}
	d.backTo(before)
}
