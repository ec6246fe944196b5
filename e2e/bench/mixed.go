//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// bulkCommand makes this program the bulk load beside the echoes. A process of
// its own, because a goroutine that always finds bytes never waits, and Go takes
// the processor from it every 10 ms only: in one process with the echoes, their
// p99 told of Go's scheduler in the load and not of the proxy.
const bulkCommand = "bulk"

// idleClass are the words before a command that runs when nobody else wants to,
// for a load that takes what the echoes leave: what then holds them up is the proxy.
var idleClass = []string{"chrt", "--idle", "0"}

// mixed is roundTrips by themselves, then once more beside downloads, which are
// started with some words before their command.
func mixed(name string, streams, connections int, before ...string) func(context.Context, options, *instance) ([]value, error) {
	alone, beside := roundTrips("alone", connections), roundTrips(name, connections)
	return func(ctx context.Context, o options, p *instance) ([]value, error) {
		calm, err := alone(ctx, o, p)
		if err != nil {
			return nil, err
		}
		b, err := startBulk(ctx, p, streams, before)
		if err != nil {
			return nil, err
		}
		defer b.stop()
		if err := b.ask(); err != nil {
			return nil, err
		}
		values, err := beside(ctx, o, p)
		if err != nil {
			return nil, err
		}
		rate, err := b.rate()
		if err != nil {
			return nil, err
		}
		slower := figure(values, name+".p99") / figure(calm, "alone.p99")
		return append(values, value{name + ".slower", slower}, value{name + ".bulk", rate}), nil
	}
}

// figure is the value of a name, or 0.
func figure(values []value, name string) float64 {
	for _, v := range values {
		if v.name == name {
			return v.number
		}
	}
	return 0
}

// bulkProcess is a running bulk load.
type bulkProcess struct {
	cmd     *exec.Cmd
	asks    io.WriteCloser
	answers *bufio.Reader
}

// startBulk runs a bulk load through a proxy until stop.
func startBulk(ctx context.Context, p *instance, streams int, before []string) (*bulkProcess, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := append(slices.Clone(before), self, bulkCommand, p.address, strconv.Itoa(streams))
	b := &bulkProcess{cmd: exec.CommandContext(ctx, command[0], command[1:]...)}
	b.cmd.Stderr = os.Stderr
	b.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if b.asks, err = b.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	answers, err := b.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, b.asks.Close())
	}
	b.answers = bufio.NewReader(answers)
	if err := b.cmd.Start(); err != nil {
		return nil, err
	}
	if _, _, err := b.answer(); err != nil { // once it runs
		b.stop()
		return nil, fmt.Errorf("bulk load: %w", err)
	}
	return b, nil
}

func (b *bulkProcess) stop() {
	_ = b.cmd.Process.Kill()
	_ = b.cmd.Wait() // killed, as asked
}

// ask wants an answer, without waiting for it.
func (b *bulkProcess) ask() error {
	_, err := b.asks.Write([]byte{'\n'})
	return err
}

// answer is how long the load runs and how much it has carried.
func (b *bulkProcess) answer() (after time.Duration, carried int64, err error) {
	line, err := b.answers.ReadString('\n')
	if err != nil {
		return 0, 0, err
	}
	_, err = fmt.Sscan(line, &after, &carried)
	return after, carried, err
}

// rate is what it has carried since it was asked first, in GiB/s.
func (b *bulkProcess) rate() (float64, error) {
	began, first, err := b.answer()
	if err != nil {
		return 0, err
	}
	if err := b.ask(); err != nil {
		return 0, err
	}
	ended, last, err := b.answer()
	return float64(last-first) / (1 << 30) / (ended - began).Seconds(), err
}

// bulkLoad is the process that startBulk runs: a source, and downloads from it
// through the proxy, if there is one. It says a line once they run, and one for
// each that it is sent, until there are no more: the nanoseconds since its start
// and the bytes that have arrived.
func bulkLoad(args []string, asks io.Reader, answers io.Writer) error {
	if len(args) != 2 {
		return errors.New("want a proxy's address and a number of streams")
	}
	streams, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	s, err := serve(source)
	if err != nil {
		return err
	}
	defer s.close()
	conns, err := dialMany(context.Background(), &instance{address: args[0]}, s, streams)
	if err != nil {
		return err
	}
	var carried atomic.Int64
	var w workers
	for _, c := range conns {
		w.run(func() error { return countBytes(c, &carried) })
	}
	defer func() {
		closeAll(conns)
		_ = w.wait()
	}()
	begin := time.Now()
	say := func() error {
		_, err := fmt.Fprintln(answers, time.Since(begin).Nanoseconds(), carried.Load())
		return err
	}
	if err := say(); err != nil {
		return err
	}
	for lines := bufio.NewScanner(asks); lines.Scan(); {
		if err := say(); err != nil {
			return err
		}
	}
	return nil
}

// countBytes reads until the connection is closed.
func countBytes(c net.Conn, total *atomic.Int64) error {
	b := make([]byte, 256<<10)
	for {
		n, err := c.Read(b)
		total.Add(int64(n))
		if err != nil {
			return nil //nolint:nilerr // the end is ours
		}
	}
}
