package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cleversocks/conn/adopt"
)

// firstFD is the first descriptor that is passed (SD_LISTEN_FDS_START).
const firstFD = 3

// maxPassed bounds how many descriptors are taken: there may be a listener for
// each of many upstreams, and several sockets for each.
const maxPassed = 1 << 16

// Inherited are the sockets that this process was started with. Its methods
// work on a nil one, which has none. They are for one goroutine.
type Inherited struct {
	// Predecessor is who started this process; nil: nobody that hands over.
	Predecessor *Predecessor

	sockets []*descriptor
	why     string // there are none; "": LISTEN_FDS is not set
}

// descriptor is one that was passed.
type descriptor struct {
	name   string // of LISTEN_FDNAMES
	socket Socket // what the predecessor said of it; of systemd's own: RoleSystemd
	file   *os.File
	taken  bool
}

// listenVariables are those of sd_listen_fds(3), and ours.
var listenVariables = []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID", Marker}

// Inherit takes what this process was started with, and the variables that say
// so out of its environment: no program that it starts later is to believe that
// it was meant. A predecessor's hello is awaited.
func Inherit(ctx context.Context, environ []string) (*Inherited, error) {
	asked, err := parse(environ, os.Getpid())
	for _, name := range listenVariables {
		if _, set := os.LookupEnv(name); set {
			err = errors.Join(err, os.Unsetenv(name))
		}
	}
	if err != nil || len(asked.names) == 0 {
		return &Inherited{why: asked.why}, err
	}
	i := &Inherited{}
	for n, name := range asked.names {
		fd := firstFD + n
		// Go's own descriptors have numbers from here on too, if a variable lies.
		if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
			return nil, fmt.Errorf("LISTEN_FDS is %d, and descriptor %d (%s) is no socket: %w", len(asked.names), fd, name, err)
		}
	}
	for n, name := range asked.names {
		fd := firstFD + n
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, true); err != nil {
			return nil, fmt.Errorf("descriptor %d (%s): %w", fd, name, err)
		}
		i.sockets = append(i.sockets, &descriptor{
			name: name, socket: Socket{Role: RoleSystemd, Name: name}, file: os.NewFile(uintptr(fd), name),
		})
	}
	if asked.predecessor {
		return i, i.meet(ctx)
	}
	return i, nil
}

// From is who hands over to this process; nil: nobody.
func (i *Inherited) From() *Predecessor {
	if i == nil {
		return nil
	}
	return i.Predecessor
}

// meet hears from the predecessor, whose channel comes first, what the rest is.
func (i *Inherited) meet(ctx context.Context) error {
	c, err := channelOf(i.sockets[0].file)
	if err != nil {
		return err
	}
	i.sockets = i.sockets[1:]
	p := &Predecessor{channel: c}
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	if err := c.expect(ctx, kindHello, &p.Hello, nil); err != nil {
		return fmt.Errorf("no word from the predecessor: %w", err)
	}
	if len(p.Hello.Sockets) != len(i.sockets) {
		return fmt.Errorf("the predecessor tells of %d sockets, and passes %d", len(p.Hello.Sockets), len(i.sockets))
	}
	for n, d := range i.sockets {
		d.socket = p.Hello.Sockets[n]
	}
	i.Predecessor = p
	return nil
}

// passed is what the environment says.
type passed struct {
	names       []string
	predecessor bool
	why         string // there are none
}

// parse reads the variables of sd_listen_fds_with_names(3) and ours.
func parse(environ []string, pid int) (passed, error) {
	get := func(name string) (string, bool) {
		i := slices.IndexFunc(environ, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		if i < 0 {
			return "", false
		}
		return environ[i][len(name)+1:], true
	}
	countText, set := get("LISTEN_FDS")
	_, successor := get(Marker)
	if !set {
		return passed{}, nil
	}
	if !successor {
		pidText, given := get("LISTEN_PID")
		if !given { // sd_listen_fds takes nothing then, too
			return passed{why: "LISTEN_PID is not set, which says for which process they are"}, nil
		}
		meant, err := strconv.Atoi(pidText)
		if err != nil {
			return passed{}, fmt.Errorf("LISTEN_FDS is set, and LISTEN_PID=%q is no process id", pidText)
		}
		if meant != pid { // sd_listen_fds: they are another's
			return passed{why: fmt.Sprintf("LISTEN_PID is %d, and this is process %d: a shell in between has to exec", meant, pid)}, nil
		}
	}
	count, err := strconv.Atoi(countText)
	if err != nil || count < 0 || count > maxPassed {
		return passed{}, fmt.Errorf("LISTEN_FDS=%q is no number up to %d", countText, maxPassed)
	}
	names := make([]string, count)
	for i := range names {
		names[i] = "unknown" // as sd_listen_fds_with_names calls them
	}
	if text, named := get("LISTEN_FDNAMES"); named && count > 0 {
		if names = strings.Split(text, ":"); len(names) != count {
			return passed{}, fmt.Errorf("LISTEN_FDNAMES has %d names, and LISTEN_FDS is %d", len(names), count)
		}
	}
	if successor && count == 0 {
		return passed{}, fmt.Errorf("%s is set, and there is no channel", Marker)
	}
	return passed{names: names, predecessor: successor}, nil
}

// Named are the sockets that systemd has given a name, which stay the
// Inherited's: a listener that a reload takes away may come back. The error
// says what there is instead.
func (i *Inherited) Named(name string) ([]*os.File, error) {
	var files []*os.File
	others := []string{}
	if i != nil {
		for _, d := range i.sockets {
			switch {
			case d.socket.Role != RoleSystemd || d.file == nil:
			case d.socket.Name == name:
				d.taken = true
				files = append(files, d.file)
			default:
				others = append(others, strconv.Quote(d.socket.Name))
			}
		}
	}
	switch {
	case len(files) > 0:
		return files, nil
	case len(others) > 0:
		slices.Sort(others)
		return nil, fmt.Errorf("no socket of that name was passed: there is %s (FileDescriptorName= in the socket unit)", strings.Join(slices.Compact(others), ", "))
	case i != nil && i.why != "":
		return nil, fmt.Errorf("no socket was passed: %s", i.why)
	}
	return nil, errors.New("no socket was passed (LISTEN_FDS is not set): start the socket unit, and not the service alone")
}

// Take is the predecessor's sockets that fit, in its order. They are the
// caller's, who closes them.
func (i *Inherited) Take(fits func(Socket) bool) []*os.File {
	var files []*os.File
	if i == nil {
		return nil
	}
	for _, d := range i.sockets {
		if d.socket.Role != RoleSystemd && !d.taken && fits(d.socket) {
			d.taken = true
			files = append(files, d.file)
		}
	}
	return files
}

// Taken are the places in the predecessor's list of what was asked for.
func (i *Inherited) Taken() []int {
	places := []int{}
	for n, d := range i.sockets {
		if d.taken {
			places = append(places, n)
		}
	}
	return places
}

// CloseRest closes what nobody has asked for, and names it.
func (i *Inherited) CloseRest() (names []string) {
	if i == nil {
		return nil
	}
	for _, d := range i.sockets {
		if d.taken || d.file == nil {
			continue
		}
		names = append(names, d.describe())
		_ = d.file.Close() // another process has it too
		d.file = nil
	}
	return names
}

func (d *descriptor) describe() string {
	if d.socket.Role != RoleSystemd {
		return string(d.socket.Role) + " " + d.socket.Bound
	}
	return d.name
}

// Systemd are the sockets that came from systemd and are in use, for a
// successor.
func (i *Inherited) Systemd() ([]Passing, error) {
	var all []Passing
	if i == nil {
		return nil, nil
	}
	for _, d := range i.sockets {
		if d.socket.Role != RoleSystemd || d.file == nil {
			continue
		}
		fd, err := adopt.DuplicateOf(d.file)
		if err != nil {
			CloseAll(all)
			return nil, err
		}
		all = append(all, Passing{Socket: d.socket, FD: fd})
	}
	return all, nil
}

// Predecessors are the channels to predecessors of before that still drain.
func (i *Inherited) Predecessors() ([]*Predecessor, error) {
	var all []*Predecessor
	if i == nil {
		return nil, nil
	}
	for _, d := range i.sockets {
		if d.socket.Role != RolePredecessor || d.taken {
			continue
		}
		d.taken = true
		c, err := channelOf(d.file)
		if err != nil {
			return all, err
		}
		pid, _ := strconv.Atoi(d.socket.Name) // for the log alone
		all = append(all, &Predecessor{channel: c, Hello: Hello{PID: pid}})
	}
	return all, nil
}
