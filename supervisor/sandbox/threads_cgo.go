//go:build linux && cgo

package sandbox

import (
	"os"
	"strconv"
)

// reachesThreads reports whether all threads can be made to enter a domain of
// Landlock's. With cgo there are threads that Go knows nothing of: they are looked
// up in /proc, which may be missing, or that of another PID namespace. Then the
// search would not end.
func reachesThreads() bool {
	self, err := os.Readlink("/proc/self")
	return err == nil && self == strconv.Itoa(os.Getpid())
}
