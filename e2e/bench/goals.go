//go:build linux

package main

// goals are what cleversocks is built to reach, for the column beside the
// figures: in brackets as a ratio to the yardstick, else as the figure itself.
var goals = map[string]string{
	"bulk.rate":        "(≥ 1.19)",
	"bulk.cpu":         "(≤ 0.66)",
	"bulk8.rate":       "(≥ 1.04)",
	"bulk8.cpu":        "(≤ 0.84)",
	"echo.p50":         "(≤ 0.85)",
	"echo8.p99":        "(≤ 1.00)",
	"echo8.rate":       "(≥ 1.00)",
	"echo8.cpu":        "(≤ 1.00)",
	"echo16.p99":       "(≤ 1.00)",
	"echo16.rate":      "(≥ 1.00)",
	"echo16.cpu":       "(≤ 1.00)",
	"echo64.p99":       "(≤ 0.70)",
	"echo64.rate":      "(≥ 1.30)",
	"echo64.cpu":       "(≤ 0.65)",
	"echo64.least":     "≥ 0.50",
	"echo256.p99":      "(≤ 1.00)",
	"echo256.rate":     "(≥ 1.00)",
	"echo256.cpu":      "(≤ 1.00)",
	"echo1000.p99":     "(≤ 1.00)",
	"echo1000.rate":    "(≥ 1.00)",
	"echo1000.cpu":     "(≤ 1.00)",
	"mixed.slower":     "≤ 1.5",
	"mixedidle.slower": "≤ 1.5",
	"connect.rate":     "≥ microsocks",
	"connect.cpu":      "(≤ 0.65), ≤ 0.80 of microsocks",
	"password.cpu":     "(≤ 0.75)",
	"name.cpu":         "(≤ 0.75)",
	"socks4a.cpu":      "(≤ 0.75)",
	"http.cpu":         "(≤ 0.75)",
	"log.cpu":          "(≤ 0.90)",
	"deployed.cpu":     "(≤ 0.65)",
	"idle.memory":      "≤ 7.0",
	"idle.fds":         "2",
	"start.ready":      "≤ 50",
	"start.own":        "≤ 12",
	"start.size":       "≤ 20",
}
