package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// unsetSecret takes a variable out of the environment, both Go's copy, which
// a child would inherit, and the original, which stays in /proc/PID/environ
// for the same user and root as long as the process lives. The latter is as
// good as the system allows; the error says why it is not.
func unsetSecret(name string) error {
	return errors.Join(os.Unsetenv(name), wipeVariable(name))
}

// wipeVariable overwrites the values of a variable with zeros where the
// kernel put them when the process began.
func wipeVariable(name string) error {
	block, err := os.ReadFile("/proc/self/environ")
	if err != nil {
		return err
	}
	start, err := environStart()
	if err != nil {
		return err
	}
	// Go's strings are copies: the memory is written to by its address.
	mem, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close() //nolint:errcheck // each write is checked by itself
	prefix := []byte(name + "=")
	offset := int64(0)
	for entry := range bytes.SplitSeq(block, []byte{0}) {
		if value, ok := bytes.CutPrefix(entry, prefix); ok {
			if _, err := mem.WriteAt(make([]byte, len(value)), start+offset+int64(len(prefix))); err != nil {
				return err
			}
		}
		offset += int64(len(entry)) + 1
	}
	return nil
}

// environStart is where the environment begins: env_start, the 50th field of
// proc_pid_stat(5).
func environStart() (int64, error) {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return 0, err
	}
	// The second field, in parentheses, may hold spaces.
	_, rest, _ := strings.Cut(string(stat[max(bytes.LastIndexByte(stat, ')'), 0):]), " ")
	const third, envStart = 3, 50
	fields := strings.Fields(rest)
	if len(fields) <= envStart-third {
		return 0, fmt.Errorf("/proc/self/stat has %d fields", len(fields)+third-1)
	}
	start, err := strconv.ParseInt(fields[envStart-third], 10, 64)
	if err == nil && start == 0 {
		err = errors.New("/proc/self/stat hides addresses")
	}
	return start, err
}
