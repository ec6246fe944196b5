package supervisor

import (
	"bufio"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// unmapProgram takes the pages of the program's file, and of its libraries', out
// of this process's page tables, and returns how many bytes were resident there.
// They stay in the kernel's cache; what is used again comes back from it by a
// fault of under a microsecond for each 64 KiB. What stays unused counts for
// nobody, and the kernel may drop it when it is short of memory. Where the cache
// has the file in pages of 2 MiB, which depends on how it was written, kernels from
// 6.18 on map each of them whole, and little is won. That stays so: connections
// cost some percent less on such pages.
func unmapProgram() (int64, error) {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	var total int64
	var errs error
	for _, m := range filePages(bufio.NewScanner(f)) {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED); errno != 0 {
			errs = errors.Join(errs, errno) // locked in memory, for one
			continue
		}
		total += m.resident
	}
	return total, errs
}

// mapping is a stretch of addresses that only shows a file.
type mapping struct {
	start, end uintptr
	resident   int64 // bytes
}

// filePages reads the mappings (proc_pid_smaps(5)) that can be dropped: those of
// a file, read-only, and without one page of the process's own. Relocations and
// a debugger's breakpoints are such pages, and would be lost.
func filePages(lines *bufio.Scanner) []mapping {
	var found []mapping
	var m mapping
	shows := false
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		if name, isField := strings.CutSuffix(fields[0], ":"); isField {
			n, _ := strconv.ParseInt(fields[1], 10, 64) // those that are no number are none of ours
			switch name {
			case "Rss":
				m.resident = n << 10
			case "Anonymous":
				if shows && n == 0 && m.resident > 0 {
					found = append(found, m)
				}
				shows = false
			}
			continue
		}
		m, shows = mappingOf(fields)
	}
	return found
}

// mappingOf reads a mapping's head, and says whether it is read-only and a file's:
// "00400000-00b90000 r-xp 00000000 fe:00 11273163 /usr/bin/cleversocks".
func mappingOf(fields []string) (mapping, bool) {
	from, to, _ := strings.Cut(fields[0], "-")
	start, err1 := strconv.ParseUint(from, 16, 64)
	end, err2 := strconv.ParseUint(to, 16, 64)
	if err1 != nil || err2 != nil || end <= start || len(fields) < 6 {
		return mapping{}, false
	}
	readOnly := fields[1] == "r-xp" || fields[1] == "r--p"
	return mapping{start: uintptr(start), end: uintptr(end)}, readOnly && fields[4] != "0"
}
