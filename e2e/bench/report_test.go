//go:build linux

package main

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPeers: a script by name is run with host and port.
func TestPeers(t *testing.T) {
	var o options
	if err := o.addPeers("mine=./start.sh; other=/bin/other -l {host}:{port};"); err != nil {
		t.Fatal(err)
	}
	if len(o.extra) != 2 || o.extra[0] != "mine=./start.sh {host} {port}" || o.extra[1] != "other=/bin/other -l {host}:{port}" {
		t.Errorf("got %q", o.extra)
	}
	for _, bad := range []string{"mine", "=x", "mine="} {
		if o.addPeers(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// TestMeasure: a name that means nothing made an empty table, which -write put in the
// place of the page.
func TestMeasure(t *testing.T) {
	for _, good := range []string{"", "echo", "echo=,udp", "connect="} {
		if o, err := parse([]string{"-measure", good}); err != nil || len(chooseMeasurements(o)) == 0 {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"connections", "echo,", "ech=", "rules"} {
		if _, err := parse([]string{"-measure", bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := parse([]string{"-growth", "-measure", "rules"}); err != nil {
		t.Error(err)
	}
	if _, err := parse([]string{"-growth", "-measure", "echo"}); err == nil {
		t.Error("a measurement is taken for a curve")
	}
}

// TestTable computes medians and ratios from known figures.
func TestTable(t *testing.T) {
	var r results
	for _, n := range []float64{3, 1, 100} {
		r.add(yardstick, []value{{"echo64.rate", n}})
	}
	for _, n := range []float64{4, 8} {
		r.add("mine", []value{{"echo64.rate", n}})
	}
	var b bytes.Buffer
	table(&b, []proxy{{name: "mine"}, {name: yardstick}, {name: "absent"}},
		[]measurement{{name: "echo64", figures: []string{"echo64.rate"}}}, &r)
	want := `| | mine | iocopy | absent | goal |
|---|---:|---:|---:|---:|
| 64-byte echo, 64 connections, round trips/s | 6 (2.00) | 3 | - | (≥ 1.30) |
`
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

// TestRatiosAreOfRounds: a round in which the machine was busy elsewhere halved both
// figures, and the ratio of the medians was of two different rounds.
func TestRatiosAreOfRounds(t *testing.T) {
	var r results
	for _, n := range []float64{100, 50, 10} {
		r.add(yardstick, []value{{"echo64.rate", n}})
	}
	for _, n := range []float64{200, 20, 20} {
		r.add("mine", []value{{"echo64.rate", n}})
	}
	if ratio, ok := r.ratio("mine", "echo64.rate", yardstick); !ok || ratio != 2 {
		t.Errorf("%g, %t", ratio, ok)
	}
}

// TestFiguresHaveUnits: a figure without a unit would be a row without a title.
func TestFiguresHaveUnits(t *testing.T) {
	listed := 0
	for _, m := range measurements() {
		for _, name := range m.figures {
			listed++
			if units[name].title == "" || !strings.HasPrefix(units[name].format, "%") {
				t.Errorf("%s: no unit", name)
			}
		}
	}
	if listed != len(units) {
		t.Errorf("%d figures are listed, %d have units", listed, len(units))
	}
}

// TestSetupIsComparedWithPlain: the yardstick knows plain SOCKS5 alone, so a
// connection with a password had nothing to be compared with.
func TestSetupIsComparedWithPlain(t *testing.T) {
	all, err := choose(options{}, t.TempDir(), "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.name == yardstick && (!p.plain || p.carries&setup != setup) {
			t.Errorf("%s: carries %b", p.name, p.carries)
		}
	}
}

// TestFiguresAreKept: a full run takes many minutes, and a machine that others
// use as well is given away for some at a time: pieces add up to one table.
func TestFiguresAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "figures")
	for round, figures := range [][]value{{{"echo.rate", 1}, {"echo.p99", 5}}, {{"echo.rate", 3}}, {{"bulk.rate", 7}}} {
		var r results
		if err := r.read(path); err != nil {
			t.Fatal(round, err)
		}
		r.add("mine", figures)
		if err := r.write(path); err != nil {
			t.Fatal(round, err)
		}
	}
	var r results
	if err := r.read(path); err != nil {
		t.Fatal(err)
	}
	rate, _ := r.median("mine", "echo.rate")
	if shown := r.measured(); rate != 2 || r.rounds() != 2 || len(shown) != 2 || shown[0].name != "bulk" || shown[1].name != "echo" {
		t.Errorf("%g, %d rounds, %d measurements", rate, r.rounds(), len(shown))
	}
}

// TestGrowthKeepsOtherSections: to draw one curve anew threw the others away.
func TestGrowthKeepsOtherSections(t *testing.T) {
	path := filepath.Join(t.TempDir(), "growth.md")
	var page bytes.Buffer
	growthHeading(&page)
	points := make([]point, 6)
	for _, s := range subjects {
		s.write(&page, points[:len(s.counts)], "x.svg", 3)
	}
	if err := os.WriteFile(path, page.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	kept, err := keptSections(path)
	if err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	growthHeading(&again)
	for _, s := range subjects {
		again.WriteString(kept[s.heading()])
	}
	if !bytes.Equal(page.Bytes(), again.Bytes()) {
		t.Errorf("got\n%s\nof\n%s", again.Bytes(), page.Bytes())
	}
}

// TestGoalsAreOfFigures: a goal of a figure that nobody measures would stand nowhere.
func TestGoalsAreOfFigures(t *testing.T) {
	for name := range goals {
		if _, ok := units[name]; !ok {
			t.Errorf("%s: no such figure", name)
		}
	}
}

// TestBulkLoad: the load by itself, without a proxy, says what it has carried
// until it is not asked any more.
func TestBulkLoad(t *testing.T) {
	in, asks, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	answers, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- errors.Join(bulkLoad([]string{"", "2"}, in, out), out.Close()) }()
	b := &bulkProcess{asks: asks, answers: bufio.NewReader(answers)}
	if _, _, err := b.answer(); err != nil {
		t.Fatal(err)
	}
	before := int64(0)
	for range 3 {
		now := before
		for now <= before { // until more has arrived
			if err := b.ask(); err != nil {
				t.Fatal(err)
			}
			if _, now, err = b.answer(); err != nil {
				t.Fatal(err)
			}
		}
		before = now
	}
	if err := errors.Join(asks.Close(), <-ended); err != nil {
		t.Error(err)
	}
}

func TestParse(t *testing.T) {
	tests := []struct {
		args []string
		ok   bool
	}{
		{nil, true},
		{[]string{"-quick", "-only", "ours,iocopy"}, true},
		{[]string{"-proxy", "x=/bin/x -p {port}"}, true},
		{[]string{"-proxy", "x"}, false},
		{[]string{"-rounds", "-1"}, false},
		{[]string{"-relays", "100000"}, false},
	}
	for _, tt := range tests {
		if _, err := parse(tt.args); (err == nil) != tt.ok {
			t.Errorf("%q: %v", tt.args, err)
		}
	}
}
