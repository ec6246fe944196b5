//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// number reads a file that holds one.
func number(path string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// statField reads one field of a file of "name value" lines; the colon and the
// unit of /proc are no obstacle.
func statField(path, name string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && strings.TrimSuffix(fields[0], ":") == name {
			return strconv.ParseInt(fields[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("%s: no %s", path, name)
}

func sumFields(path string, names ...string) (int64, error) {
	total := int64(0)
	for _, name := range names {
		n, err := statField(path, name)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// privateMemory is what a process shares with no other, in bytes.
func privateMemory(pid int) (int64, error) {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	n, err := sumFields(path, "Private_Clean", "Private_Dirty")
	return n << 10, err
}

// residentMemory is what of a process is in memory, and what of that no file
// has, in bytes.
func residentMemory(pid int) (resident, anonymous int64, err error) {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	if resident, err = statField(path, "Rss"); err != nil {
		return 0, 0, err
	}
	anonymous, err = statField(path, "Anonymous")
	return resident << 10, anonymous << 10, err
}

// clockTick is the unit of times in /proc/PID/stat, USER_HZ, which Linux fixes
// at 100 per second on all of Go's platforms.
const clockTick = 10 * time.Millisecond

// processTime is the processor time of live processes.
func processTime(pids []int) (time.Duration, error) {
	total := time.Duration(0)
	for _, pid := range pids {
		fields, err := statFields(pid)
		if err != nil {
			return 0, err
		}
		for _, field := range fields[11:15] { // utime, stime, cutime, cstime
			n, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, err
			}
			total += time.Duration(n) * clockTick
		}
	}
	return total, nil
}

// statFields are those of /proc/PID/stat from the state on; the name before it
// may hold blanks.
func statFields(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 15 {
		return nil, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	return fields, nil
}

// descendants are a process and all below it.
func descendants(pid int) []int {
	found := []int{pid}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return found
	}
	for _, task := range tasks {
		b, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(b)) {
			if child, err := strconv.Atoi(field); err == nil {
				found = append(found, descendants(child)...)
			}
		}
	}
	return found
}
