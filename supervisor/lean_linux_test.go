package supervisor

import (
	"bufio"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Only what the kernel can read again from its file may be dropped: a page that
// the process has written to is lost, be it a relocation or a breakpoint.
func TestFilePagesAreThoseOfFilesAlone(t *testing.T) {
	const smaps = `00400000-00b90000 r-xp 00000000 fe:00 11273163                           /usr/bin/cleversocks
Size:               7744 kB
Rss:                6716 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00b90000-013d4000 r--p 00790000 fe:00 11273163                           /usr/bin/clever socks
Rss:                6608 kB
Anonymous:             4 kB
013d4000-0145f000 rw-p 00fd4000 fe:00 11273163                           /usr/bin/cleversocks
Rss:                 428 kB
Anonymous:             0 kB
02000000-02001000 r--p 00000000 fe:00 11273163                           /usr/bin/never read
Rss:                   0 kB
Anonymous:             0 kB
c000000000-c000400000 r--p 00000000 00:00 0
Rss:                 400 kB
Anonymous:             0 kB
7ffd0000-7ffd2000 r-xp 00000000 00:00 0                          [vdso]
Rss:                   4 kB
Anonymous:             0 kB
zz-00 r-xp 00000000 fe:00 1 /broken
Rss:                   4 kB
Anonymous:             0 kB
`
	got := filePages(bufio.NewScanner(strings.NewReader(smaps)))
	want := []mapping{{start: 0x400000, end: 0xb90000, resident: 6716 << 10}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mapping{})); diff != "" {
		t.Error(diff)
	}
}

// The program goes on as before, on pages that come back by themselves.
func TestProgramRunsOnAfterItsPagesWereDropped(t *testing.T) {
	for range 3 {
		if _, err := unmapProgram(); err != nil {
			t.Fatal(err)
		}
	}
	if s := strings.Repeat("x", 3); s != "xxx" {
		t.Error(s)
	}
}
