//go:build linux

package main

import (
	"context"
	"errors"
	"time"

	"cleversocks/e2e/bench/udpbench"
)

// datagrams keeps 64 datagrams under way through one association to an echo.
// With offload, client and echo hand the kernel several at once, as QUIC
// stacks do.
func datagrams(name string, offload bool) func(context.Context, options, *instance) ([]value, error) {
	return func(ctx context.Context, o options, p *instance) ([]value, error) {
		warm := udpbench.Options{Offload: offload, Duration: o.duration / 4}
		if _, err := udpbench.Measure(ctx, p.address, warm); err != nil {
			return nil, err
		}
		before, err := p.usage.cpuTime()
		if err != nil {
			return nil, err
		}
		result, err := udpbench.Measure(ctx, p.address, udpbench.Options{Offload: offload, Duration: o.duration})
		if err != nil {
			return nil, err
		}
		if result.RoundTrips == 0 {
			return nil, errors.New("no datagram came back")
		}
		after, err := p.usage.cpuTime()
		return []value{
			{name + ".rate", result.PerSecond()},
			{name + ".cpu", float64(after-before) / float64(time.Microsecond) / float64(result.RoundTrips)},
		}, err
	}
}
