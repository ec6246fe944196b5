//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideVariable tells the command that it runs in its namespace, and where
// the built proxies are.
const insideVariable = "CLEVERSOCKS_BENCH_DIR"

// enterNamespace runs this program once more, in a new network namespace,
// which goes away with its last process.
func enterNamespace(dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// The child's Pdeathsig fires when the thread ends that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c := exec.Command(self, os.Args[1:]...)
	c.Env = append(os.Environ(), insideVariable+"="+dir)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	if uid := os.Geteuid(); uid != 0 {
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	if err := c.Start(); err != nil {
		return fmt.Errorf("a network namespace (needs root or user namespaces): %w", err)
	}
	return c.Wait()
}

// setUpNetwork brings the namespace's loopback up and sets its congestion
// control.
func setUpNetwork(congestion string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return os.WriteFile(congestionFile, []byte(congestion), 0)
}

// congestionFile is that of the namespace of whoever opens it.
const congestionFile = "/proc/sys/net/ipv4/tcp_congestion_control"

func congestionInForce() string {
	b, err := os.ReadFile(congestionFile)
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}
