package metrics

import (
	"bytes"
	"context"
	"io"
	"sync/atomic"
	"time"

	vm "github.com/VictoriaMetrics/metrics"
)

// processInterval is how old the process metrics are at most.
const processInterval = 10 * time.Second

// Process keeps the process's and the Go runtime's metrics. They are read
// from /proc on a schedule, not on request: with many descriptors that is
// slow, and whoever scrapes must not be able to make the proxy work.
type Process struct {
	text atomic.Pointer[[]byte]
}

func (p *Process) String() string { return "metrics" }

// Serve reads the metrics every ten seconds until ctx ends.
func (p *Process) Serve(ctx context.Context) error {
	tick := time.NewTicker(processInterval)
	defer tick.Stop()
	for {
		p.sample()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *Process) sample() {
	var buf bytes.Buffer
	vm.WriteProcessMetrics(&buf)
	vm.WriteFDMetrics(&buf)
	text := buf.Bytes()
	p.text.Store(&text)
}

func (p *Process) write(w io.Writer) {
	if text := p.text.Load(); text != nil {
		_, _ = w.Write(*text) // the scraper left: nothing to do
	}
}
