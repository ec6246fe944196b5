// Command cmd measures the UDP relays of the proxies that are given, in
// alternation.
//
//	cmd [-rounds 3] [-size 512] [-inflight 64] [-clients 1] [-offload] NAME=ADDRESS[/PID] ...
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"slices"
	"strconv"
	"strings"
	"time"

	"cleversocks/e2e/bench/udpbench"
)

func main() {
	rounds := flag.Int("rounds", 3, "measurements of each proxy")
	var o udpbench.Options
	flag.IntVar(&o.Size, "size", 512, "bytes of payload")
	flag.IntVar(&o.InFlight, "inflight", 64, "datagrams under way per association")
	flag.IntVar(&o.Clients, "clients", 1, "associations")
	flag.BoolVar(&o.Offload, "offload", false, "client and echo use UDP GSO and GRO")
	flag.DurationVar(&o.Duration, "duration", 3*time.Second, "of each measurement")
	flag.Parse()
	rates := make(map[string][]float64)
	for range *rounds {
		for _, arg := range flag.Args() {
			name, rest, _ := strings.Cut(arg, "=")
			addr, pid, _ := strings.Cut(rest, "/")
			o.PID, _ = strconv.Atoi(pid)
			r, err := udpbench.Measure(context.Background(), addr, o)
			if err != nil {
				log.Fatalf("%s: %v", name, err)
			}
			rates[name] = append(rates[name], r.PerSecond())
			fmt.Printf("%-12s %9.0f round trips/s  %6.2f µs CPU  %d lost\n",
				name, r.PerSecond(), float64(r.CPUPerRoundTrip())/1e3, r.Lost)
		}
	}
	var first float64
	for _, arg := range flag.Args() {
		name, _, _ := strings.Cut(arg, "=")
		slices.Sort(rates[name])
		median := rates[name][len(rates[name])/2]
		if first == 0 {
			first = median
		}
		fmt.Printf("%-12s median %9.0f  ratio %.2f\n", name, median, median/first)
	}
}
