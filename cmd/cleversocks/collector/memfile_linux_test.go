package collector

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A record that a datagram cannot hold reaches journald all the same, as a sealed
// file: with a small buffer on the way (net.core.wmem_max) it was tried again and
// again, and held up those behind it.
func TestJournaldTakesBigRecordsAsFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	journal := receiver(t, "unixgram", path)
	c := open(t, Options{Network: "unix", Address: path, Journald: true})
	write(t, c, `{"time":"2026-11-29T10:11:12Z","msg":"small"}`+"\n")
	if got := next(t, journal); !strings.Contains(got, "MESSAGE=msg=small\n") {
		t.Errorf("%q", got)
	}
	if err := c.conn.(*net.UnixConn).SetWriteBuffer(1); err != nil { // the least that the kernel allows, some KiB
		t.Fatal(err)
	}
	err := `","err":"` + strings.Repeat("x", 3000)
	write(t, c, `{"time":"2026-11-29T10:11:12Z","msg":"big`+err+strings.ReplaceAll(err, "err", "door")+`"}`+"\n")
	rights := make([]byte, unix.CmsgSpace(4))
	buf := make([]byte, 64<<10)
	n, m, _, _, failed := journal.ReadMsgUnix(buf, rights)
	if failed != nil || n != 0 {
		t.Fatalf("%d bytes, %v: %.300q", n, failed, buf[:n])
	}
	messages, failed := unix.ParseSocketControlMessage(rights[:m])
	if failed != nil || len(messages) != 1 {
		t.Fatalf("%v, %v", messages, failed)
	}
	fds, failed := unix.ParseUnixRights(&messages[0])
	if failed != nil || len(fds) != 1 {
		t.Fatalf("%v, %v", fds, failed)
	}
	file := os.NewFile(uintptr(fds[0]), "record")
	defer file.Close()
	if seals, failed := unix.FcntlInt(file.Fd(), unix.F_GET_SEALS, 0); failed != nil || seals&unix.F_SEAL_WRITE == 0 {
		t.Errorf("seals %x, %v", seals, failed)
	}
	body, failed := io.ReadAll(io.NewSectionReader(file, 0, 1<<20))
	if failed != nil || !strings.Contains(string(body), "CLEVERSOCKS_DOOR="+strings.Repeat("x", 3000)+"\n") {
		t.Errorf("%v, %d bytes: %.200q", failed, len(body), body)
	}
}
