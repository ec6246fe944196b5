package adopt

import (
	"net"
	"os"
	"sync"
)

// spare is a descriptor that is kept for the day that there is none left: a socket
// has two while a conn is made of it, which is too many by one then. All of the
// process share it, as they share the limit.
var spare struct {
	mu   sync.Mutex
	file *os.File // nil: nobody has asked for one, or it could not be had again
	kept bool
}

// Reserve keeps a spare descriptor from now on. Without one, Conn needs one that is
// free.
func Reserve() {
	spare.mu.Lock()
	defer spare.mu.Unlock()
	spare.kept = true
	reserve()
}

// reserve is for who holds the lock.
func reserve() {
	if spare.kept && spare.file == nil {
		spare.file, _ = os.Open(os.DevNull) // fails where there is none left: the next one tries again
	}
}

// fileConn is net.FileConn, which needs one more descriptor. The file is closed in
// any case.
func fileConn(file *os.File) (net.Conn, error) {
	c, err := net.FileConn(file)
	if err == nil {
		_ = file.Close()
		return c, nil
	}
	spare.mu.Lock()
	defer spare.mu.Unlock()
	if spare.file != nil {
		_ = spare.file.Close()
		spare.file = nil
		c, err = net.FileConn(file)
	}
	_ = file.Close()
	reserve() // in the place of the file
	return c, err
}
