package e2e

import (
	"os/exec"
	"strings"
	"testing"

	"cleversocks/e2e/need"
)

// TestBenchRuns: the benchmark is run every few weeks, and settings that it writes
// may be refused by then. Each way of a connection's set-up for a moment, and the
// bulk load that has a process of its own.
func TestBenchRuns(t *testing.T) {
	bench := exec.Command("go", "run", "./e2e/bench", "-ours", need.Plain(t), "-only", "ours",
		"-rounds", "1", "-duration", "20ms", "-measure", "mixed=,password,name,socks4a,http,log,deployed")
	bench.Dir = ".."
	var said strings.Builder
	bench.Stderr = &said
	out, err := bench.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	rows := strings.Split(strings.TrimSpace(string(out)), "\n")[2:] // below the heading
	if want := 4 + 6*2; len(rows) != want {
		t.Errorf("%d rows, want %d", len(rows), want)
	}
	for _, row := range rows {
		if cells := strings.Split(row, "|"); len(cells) != 5 || strings.Trim(cells[2], " -") == "" {
			t.Errorf("no figure: %s", row)
		}
	}
}
