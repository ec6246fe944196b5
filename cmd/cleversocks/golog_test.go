package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestLibrariesSpeakIntoOurLog: the metrics library wrote through Go's log
// before main, a line that was no JSON at the head of a JSON log. golog must be
// initialised first, which the order of the packages' paths decides.
func TestLibrariesSpeakIntoOurLog(t *testing.T) {
	cmd := exec.Command("cleversocks", "version")
	cmd.Env = append(cmd.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	ours := strings.Index(string(out), "init cleversocks/cmd/cleversocks/golog @")
	theirs := strings.Index(string(out), "init github.com/VictoriaMetrics/metrics @")
	if ours < 0 || theirs < 0 || ours > theirs {
		t.Errorf("golog at %d, the metrics library at %d of\n%s", ours, theirs, out)
	}
}
