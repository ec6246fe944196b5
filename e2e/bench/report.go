//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// results are the figures of all turns, by proxy and name.
type results struct {
	all map[[2]string][]float64
}

func (r *results) add(proxy string, values []value) {
	if r.all == nil {
		r.all = make(map[[2]string][]float64)
	}
	for _, v := range values {
		key := [2]string{proxy, v.name}
		r.all[key] = append(r.all[key], v.number)
	}
}

// median of a figure, and whether there is one.
func (r *results) median(proxy, name string) (float64, bool) {
	return median(r.all[[2]string{proxy, name}])
}

// ratio is how a figure compares with the yardstick's: the median over the rounds of
// the ratio in each, since both had the same neighbours on the machine then.
func (r *results) ratio(proxy, name, yardstick string) (float64, bool) {
	ours, theirs := r.all[[2]string{proxy, name}], r.all[[2]string{yardstick, name}]
	if len(ours) != len(theirs) { // one of them has not had all of its turns
		a, _ := median(ours)
		b, _ := median(theirs)
		return a / b, b != 0
	}
	var ratios []float64
	for i, number := range ours {
		if theirs[i] != 0 {
			ratios = append(ratios, number/theirs[i])
		}
	}
	return median(ratios)
}

func median(numbers []float64) (float64, bool) {
	n := len(numbers)
	if n == 0 {
		return 0, false
	}
	sorted := slices.Sorted(slices.Values(numbers))
	return (sorted[(n-1)/2] + sorted[n/2]) / 2, true
}

// report prints the table, and writes it where it was asked to.
func report(o options, proxies []proxy, chosen []measurement, r *results) error {
	var b bytes.Buffer
	table(&b, proxies, chosen, r)
	if _, err := os.Stdout.Write(b.Bytes()); err != nil {
		return err
	}
	if o.write == "" {
		return nil
	}
	var page bytes.Buffer
	head(&page, o, r.rounds())
	page.Write(b.Bytes())
	return os.WriteFile(o.write, page.Bytes(), 0o644)
}

func table(b *bytes.Buffer, proxies []proxy, chosen []measurement, r *results) {
	fmt.Fprint(b, "| |")
	for _, p := range proxies {
		fmt.Fprintf(b, " %s |", p.name)
	}
	fmt.Fprintf(b, " goal |\n|---|%s\n", strings.Repeat("---:|", len(proxies)+1))
	for _, m := range chosen {
		for _, name := range m.figures {
			fmt.Fprintf(b, "| %s |", units[name].title)
			for _, p := range proxies {
				fmt.Fprintf(b, " %s |", cell(r, p.name, name, m.carries.yardstick()))
			}
			fmt.Fprintf(b, " %s |\n", goals[name])
		}
	}
}

// cell is a median, and the ratio to the yardstick's figure.
func cell(r *results, proxy, name, yardstick string) string {
	number, ok := r.median(proxy, name)
	if !ok {
		return "-"
	}
	text := fmt.Sprintf(units[name].format, number)
	if ratio, ok := r.ratio(proxy, name, yardstick); ok && proxy != yardstick {
		text += fmt.Sprintf(" (%.2f)", ratio)
	}
	return text
}

// head describes the machine and the method.
func head(b *bytes.Buffer, o options, rounds int) {
	fmt.Fprintf(b, `# Benchmarks

Written by `+"`go run ./e2e/bench -write`"+`; run it on your machine, the figures of this one are not yours.

- Date: %s
- Processor: %s, %d cores in use
- Kernel: %s
- Go: %s
- Congestion control: %s, in a network namespace of its own, over loopback
- Load: %v each, %d rounds, %d idle relays; client and server of the load run on the same cores
- Programs that wanted to run when it was written: %s, over the last 1, 5 and 15 minutes; what runs beside a benchmark is in its figures

Medians over the rounds, the proxies taking turns. In brackets is the median of the rounds' ratios to iocopy, a proxy
of 60 lines around Go's io.Copy; ratios stand where the machine is shared. For UDP they are to udpplain, a relay of one datagram
a read and a write. Processor time and memory are the proxy's own, from its cgroup.

- direct is the same load without a proxy: no proxy can carry more than that. Its p99 is of more round trips than theirs.
- floor is one thread with one epoll and nothing around the reads and the writes of a message, and no splice: what policy, limits,
  records and metrics cost is the difference to it. Where it misses a goal, this machine does not have that goal. It copies
  bulk streams on its one thread, so its echoes beside them are no measure.
- Who moves all small messages on one thread for two processors, as floor and cleversocks do here, spends less on each, and leaves
  the second core to others: fewer round trips, from 8 to 256 connections, where nobody else wants it.
- The goals are cleversocks' own; in brackets they are ratios, too.
- iocopy knows neither passwords nor names nor HTTP nor records: its figures beside those are of plain connections, made in turn
  with the others'. The password is remembered from the log-in before, the name is in the cache, and a deployment's settings are 1,000 rules, caps of
  connections, timeouts and metrics.
- Bulk streams beside echoes have a process of their own for their source and their readers, so the kernel shares the cores among
  that, the echoes and the proxy. What direct's echoes wait for then is their turn, and no proxy's doing; in SCHED_IDLE the streams'
  process leaves the turns to the others, and what holds the echoes up longer than direct's is the proxy. GiB/s of the streams are there because a
  proxy that starved them would look good at the echoes.
- Without a proxy, client and server of an echo are two goroutines of one program, which hand over without waking anybody.

`, time.Now().UTC().Format(time.DateOnly), processor(), runtime.NumCPU(), kernel(), runtime.Version(),
		congestionInForce(), o.duration, rounds, o.relays, loadAverage())
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(b))
	if err != nil || len(fields) < 3 {
		return "unknown"
	}
	return strings.Join(fields[:3], ", ")
}

func processor() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(b)) {
		if name, model, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(model)
		}
	}
	return runtime.GOARCH
}

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Sysname[:]) + " " + unix.ByteSliceToString(u.Release[:])
}
