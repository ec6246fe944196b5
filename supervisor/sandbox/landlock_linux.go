package sandbox

import (
	"errors"
	"io/fs"
	"os"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// knownVersion is the newest interface whose rights are used. Later ones also
// hold what this process needs at any time (UDP, connecting to unix sockets).
const knownVersion = 7

// versions are what each version of the interface can hold. The first one has no
// right to let files move between directories, and denies it; those before the
// third leave files open to be cut short.
var versions = [knownVersion + 1]landlock.Config{1: landlock.V1, 2: landlock.V2, 3: landlock.V3, 4: landlock.V4, 5: landlock.V5, 6: landlock.V6, 7: landlock.V7}

func landlockVersion() int {
	version, err := ll.LandlockGetABIVersion()
	if err != nil || !reachesThreads() {
		return 0
	}
	return version
}

// Rights that the package landlock has no name for.
const (
	rightsToRead    = ll.AccessFSReadFile | ll.AccessFSReadDir
	rightsToExecute = rightsToRead | ll.AccessFSExecute
	rightsToSockets = ll.AccessFSMakeSock | ll.AccessFSRemoveFile | ll.AccessFSReadDir
	rightsToWrite   = rightsToRead | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSMakeReg | ll.AccessFSRemoveFile | ll.AccessFSMakeSock |
		ll.AccessFSMakeDir | ll.AccessFSRemoveDir | ll.AccessFSRefer
)

// errHolds is a sandbox that does not hold, whatever the system said.
var errHolds = errors.New("it was entered, and a directory outside can still be read")

// restrict enters a domain of Landlock's with all threads. Files and ports are
// one rule set: two would be two domains, each of which denies what it does not
// know of (landlock(7), "refer").
func restrict(p Plan, version int, ports bool) error {
	config := versions[version]
	config.HandledAccessNet, config.Scoped = 0, 0 // connects stay free; signals of older kernels between threads would not
	var rules []landlock.Rule
	add := func(rights landlock.AccessFSSet, paths []string) {
		if len(paths) > 0 {
			// Rights that this version does not know: the package landlock would give
			// all of it up for one ("refer", which kernels before 5.19 lack).
			rules = append(rules, landlock.PathAccess(rights&config.HandledAccessFS, paths...).IgnoreIfMissing())
		}
	}
	add(rightsToRead, p.Read)
	add(rightsToWrite, p.Write)
	add(rightsToSockets, p.Sockets)
	add(rightsToExecute, p.Execute)
	rules = append(rules, landlock.RWFiles(os.DevNull).IgnoreIfMissing())
	if ports {
		config.HandledAccessNet = ll.AccessNetBindTCP
		rules = append(rules, landlock.BindTCP(0)) // for BIND, and where a source address is chosen
		for _, r := range p.Ports {
			for port := int(r.Low); port <= int(r.High); port++ {
				if port != 0 {
					rules = append(rules, landlock.BindTCP(uint16(port)))
				}
			}
		}
	}
	if err := config.Restrict(rules...); err != nil {
		return err
	}
	return holds(p)
}

// holds tries the door: the root directory is outside, unless somebody has a
// file there.
func holds(p Plan) error {
	if below("/", p.Read) || below("/", p.Write) || below("/", p.Execute) || below("/", p.Sockets) {
		return nil
	}
	root, err := os.Open("/")
	if err == nil {
		return errors.Join(errHolds, root.Close())
	}
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

// forgoCores has the kernel write no core dump, and none of the memory into one
// that a helper takes whatever the limit is (core(5)). Successors inherit both.
// PR_SET_DUMPABLE would do it too, and take /proc/self/io from the metrics.
func forgoCores() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return err
	}
	err := os.WriteFile("/proc/self/coredump_filter", []byte("0"), 0o600)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	}
	return err
}
