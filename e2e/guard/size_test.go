//go:build linux

package guard

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cleversocks/e2e/process"
)

const (
	mostProgram  = 20_000_000 // bytes, stripped
	mostResident = 12 << 20   // bytes, of a process that nobody has used
)

// The program grew by a library, and a fresh process held 21 MiB, most of it
// what the start had needed once.
func TestGuardSize(t *testing.T) {
	dir := t.TempDir()
	binary := program(t, dir)
	info, err := os.Stat(binary)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > mostProgram {
		t.Errorf("the program is %d bytes, want at most %d", info.Size(), mostProgram)
	}
	settings := filepath.Join(dir, "config")
	if err := os.WriteFile(settings, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := process.Start(t, exec.Command(inSmallPages(t, binary), "--config", settings))
	p.AwaitReady()
	p.Find("that says what it gave back", func(l process.Line) bool { return l["msg"] == "memory of the start given back" })
	status, err := os.ReadFile("/proc/" + strconv.Itoa(p.Cmd.Process.Pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	resident := 0
	for line := range strings.Lines(string(status)) {
		fields := strings.Fields(line)
		if len(fields) == 3 && fields[0] == "VmRSS:" {
			if resident, err = strconv.Atoi(fields[1]); err != nil {
				t.Fatal(err)
			}
		}
		if strings.HasPrefix(line, "Rss") || strings.HasPrefix(line, "VmRSS") {
			t.Log(strings.Join(fields, " "))
		}
	}
	t.Logf("the program: %d bytes; resident: %d KiB", info.Size(), resident)
	if resident == 0 || resident<<10 > mostResident {
		t.Errorf("a fresh process has %d KiB, want at most %d", resident, mostResident>>10)
	}
}

// inSmallPages is a copy of a program that was written a page at a time, so that
// the kernel's cache has it in small ones. One that was written in large pieces may
// be there in pages of 2 MiB, which are mapped whole for one byte: the same process
// had 9 or 21 MiB, as it happened.
func inSmallPages(t *testing.T, program string) string {
	t.Helper()
	from, err := os.Open(program)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(program+"-copy", os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, os.Getpagesize())
	if _, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, page); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return to.Name()
}
