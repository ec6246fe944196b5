package authsvc

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/renameio/v2"

	"cleversocks/metrics"
)

func newQuotas(dir string, onError func(error)) (*Quotas, *metrics.Auth) {
	m := &metrics.New().Auth
	return NewQuotas(StateOptions{Directory: dir, Metrics: m, OnError: onError}), m
}

var alice = &Account{Name: "alice\xff", QuotaBytes: 1000, QuotaPeriod: time.Hour}

func usedBy(q *Quotas, user string) int64 {
	for _, r := range q.List() {
		if r.User == user {
			return r.Used
		}
	}
	return -1
}

// An operator lifts a quota. A handshake that was under way keeps the settings
// that it began with, and asked for the usage by them: it put the old quota
// back, for all of the user's connections and until the next reload.
func TestQuotaLiftedDuringAHandshake(t *testing.T) {
	q, _ := newQuotas("", nil)
	open := q.Of(alice)
	open.Moved(alice.QuotaBytes)
	lifted := UserEntry{Account: Account{Name: alice.Name}}
	q.Set(newUsers(t, UsersOptions{Users: []UserEntry{lifted}}))
	if !q.Of(alice).Moved(1) || !open.Moved(1) {
		t.Error("the old quota is back")
	}
	lifted.Account = *alice
	lifted.QuotaBytes *= 3
	q.Set(newUsers(t, UsersOptions{Users: []UserEntry{lifted}}))
	if late := q.Of(alice); late != open || !late.Moved(1) {
		t.Error("the new quota does not count")
	}
}

// A machine without a clock of its own boots in a wrong year, counts, saves,
// and then hears the time. Its users' periods lay in the future, where they
// did not end for years: whoever had used up the quota stayed out.
func TestQuotaOfAWrongClock(t *testing.T) {
	q, _ := newQuotas("", nil)
	u := q.Of(alice)
	u.Moved(alice.QuotaBytes)
	u.start = time.Now().AddDate(10, 0, 0)
	if u.Moved(0) {
		t.Error("what was used is forgotten")
	}
	if until := q.List()[0].Until; until.After(time.Now().Add(alice.QuotaPeriod)) {
		t.Errorf("ends %s", until)
	}
}

func TestQuotaPeriods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q, _ := newQuotas("", nil)
		u := q.Of(alice)
		if u != q.Of(alice) {
			t.Error("two connections of a user count apart")
		}
		if !u.Moved(999) || u.Moved(1) || u.Moved(0) {
			t.Error("1000 bytes end the quota")
		}
		pass(time.Hour - 1)
		if u.Moved(0) {
			t.Error("the period ended early")
		}
		pass(time.Nanosecond)
		if !u.Moved(500) {
			t.Error("the period never ends")
		}
		pass(90 * time.Minute)
		if !u.Moved(999) || usedBy(q, alice.Name) != 999 {
			t.Errorf("%+v", q.List())
		}
		pass(30 * time.Minute) // periods follow without a gap
		if !u.Moved(999) {
			t.Error("a pause moved the period")
		}
		if u.Moved(1) || !q.Reset(alice.Name) || !u.Moved(1) {
			t.Error("a reset begins anew")
		}
	})
	var none *Usage
	q, _ := newQuotas("", nil)
	if !none.Moved(1<<40) || !q.Of(&Account{Name: "x"}).Moved(1<<40) {
		t.Error("no quota is a limit")
	}
}

func TestQuotaChangesOnReload(t *testing.T) {
	q, _ := newQuotas("", nil)
	u := q.Of(alice)
	if u.Moved(1000) {
		t.Error("1000 bytes end the quota")
	}
	more := *alice
	more.QuotaBytes = 2000
	q.Set(newUsers(t, UsersOptions{Users: []UserEntry{{Account: more}}}))
	q.Of(alice) // a connection that loaded its settings before
	if !u.Moved(999) || u.Moved(1) {
		t.Error("the open connection keeps the old quota")
	}
	q.Set(newUsers(t, UsersOptions{}))
	if !u.Moved(1) {
		t.Error("a quota that is no longer there holds")
	}
}

func TestQuotaOverARestart(t *testing.T) {
	dir := t.TempDir()
	first, _ := newQuotas(dir, nil)
	first.Of(alice).Moved(600)
	serveOnce(t, first)
	second, _ := newQuotas(dir, nil)
	if second.Of(alice).Moved(400) {
		t.Error("a restart refills the quota")
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left in the directory: %v", left)
	}
	if info, err := os.Stat(left[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

func TestCorruptState(t *testing.T) {
	good := string(encodeState(metrics.StateQuotas, []byte(`[{"user":"YQ==","start":"2026-01-01T00:00:00Z","used":5,"period":1}]`)))
	for name, content := range map[string]string{
		"empty":         "",
		"truncated":     good[:len(good)-3],
		"flipped":       strings.Replace(good, `"used":5`, `"used":1`, 1),
		"other kind":    string(encodeState(metrics.StateBans, []byte("[]"))),
		"later version": strings.Replace(good, "cleversocks-state 1", "cleversocks-state 2", 1),
		"no JSON":       string(encodeState(metrics.StateQuotas, []byte("{"))),
		"other JSON":    string(encodeState(metrics.StateQuotas, []byte(`{"a":1}`))),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "quotas.state")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			var told []error
			q, m := newQuotas(dir, func(err error) { told = append(told, err) })
			if len(told) != 1 || !errors.Is(told[0], ErrCorrupt) || m.State.Of(metrics.StateQuotas, metrics.StateCorrupt).Get() != 1 {
				t.Errorf("told %v", told)
			}
			if kept, err := os.ReadFile(path + ".bad"); err != nil || string(kept) != content {
				t.Errorf("not kept aside: %q, %v", kept, err)
			}
			q.Of(alice).Moved(7)
			serveOnce(t, q)
			if again, _ := newQuotas(dir, nil); usedBy(again, alice.Name) != 7 {
				t.Error("not saved after that")
			}
		})
	}
}

// A byte order mark, which some way of copying a file adds, is no damage.
func TestStateWithAMark(t *testing.T) {
	good := encodeState(metrics.StateQuotas, []byte("[]"))
	if got, err := decodeState(metrics.StateQuotas, append([]byte("\xef\xbb\xbf"), good...)); err != nil || string(got) != "[]" {
		t.Errorf("%q, %v", got, err)
	}
}

// A good file that cannot be read now is not replaced; once it can be, both
// counts are added.
func TestUnreadableStateIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	first, _ := newQuotas(dir, nil)
	first.Of(alice).Moved(100)
	serveOnce(t, first)

	m := &metrics.New().Auth
	var told []error
	q := &Quotas{users: map[string]*Usage{}, file: newStateFile(StateOptions{Directory: dir, Metrics: m, OnError: func(err error) { told = append(told, err) }}, metrics.StateQuotas)}
	q.file.restore, q.file.dump = q.restore, func() any { return q.saved() }
	q.file.os.open = func(string) (io.ReadCloser, error) { return nil, syscall.EIO }
	q.file.settle()
	q.Of(alice).Moved(10)
	q.file.save()
	if len(told) != 2 || !errors.Is(told[1], syscall.EIO) || m.State.Of(metrics.StateQuotas, metrics.StateLoadFailed).Get() != 2 {
		t.Errorf("told %v", told)
	}
	if on, _ := newQuotas(dir, nil); usedBy(on, alice.Name) != 100 {
		t.Error("the file was replaced unread")
	}
	q.file.os.open = realOS().open
	q.file.save()
	if on, _ := newQuotas(dir, nil); usedBy(on, alice.Name) != 110 {
		t.Errorf("%d after both", usedBy(on, alice.Name))
	}
}

// full is a file on a full disk.
type full struct {
	*renameio.PendingFile
	short bool // lies about it: a part is written, no error is given
}

func (f full) Write(p []byte) (int, error) {
	if f.short {
		n, err := f.PendingFile.Write(p[:len(p)/2])
		return n * 2, err
	}
	n, _ := f.PendingFile.Write(p[:len(p)/2])
	return n, syscall.ENOSPC
}

func TestDiskFull(t *testing.T) {
	for _, short := range []bool{false, true} {
		dir := t.TempDir()
		var told []error
		q, m := newQuotas(dir, func(err error) { told = append(told, err) })
		q.Of(alice).Moved(1)
		q.file.save()
		q.file.os.create = func(path string) (stateTemp, error) {
			f, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir))
			return full{f, short}, err
		}
		q.Of(alice).Moved(1)
		q.file.save()
		if len(told) != 1 || m.State.Of(metrics.StateQuotas, metrics.StateSaveFailed).Get() != 1 {
			t.Errorf("told %v", told)
		}
		if on, _ := newQuotas(dir, nil); usedBy(on, alice.Name) != 1 {
			t.Error("the good file was replaced")
		}
		if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
		q.file.os.create = realOS().create
		q.file.save() // room again
		if on, _ := newQuotas(dir, nil); usedBy(on, alice.Name) != 2 || len(told) != 1 {
			t.Errorf("not tried again: %v", told)
		}
	}
}

func FuzzDecodeState(f *testing.F) {
	f.Add(encodeState(metrics.StateQuotas, []byte("[]")))
	f.Add([]byte("cleversocks-state 1 quotas \n"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, data []byte) {
		payload, err := decodeState(metrics.StateQuotas, data)
		if err != nil {
			return
		}
		if again, err := decodeState(metrics.StateQuotas, encodeState(metrics.StateQuotas, payload)); err != nil || string(again) != string(payload) {
			t.Fatalf("%q does not survive", data)
		}
		q, _ := newQuotas("", nil)
		if q.restore(payload) == nil {
			q.saved()
		}
	})
}

// A quota of 1 MiB let 300 tunnels move 4.8 MiB, and 37 spliced: each was
// counted after its chunk. Booked before they move, bytes never exceed it.
func TestBookingsKeepToTheQuota(t *testing.T) {
	q, _ := newQuotas("", nil)
	u := q.Of(&Account{Name: "alice", QuotaBytes: 1 << 20, QuotaPeriod: time.Hour})
	booked := int64(0)
	for range 300 {
		n, left := u.Reserve(256 << 10)
		if !left {
			t.Fatal("the quota is used up before a byte has moved")
		}
		booked += n
	}
	if booked != 1<<20 {
		t.Fatalf("%d bytes booked of a quota of 1 MiB", booked)
	}
	u.Settle(1<<20, 1<<20-10) // one had not so many
	if n, left := u.Reserve(256 << 10); n != 10 || !left {
		t.Errorf("%d bytes, left %v: want the 10 that were given back", n, left)
	}
	u.Settle(10, 10)
	if n, left := u.Reserve(1); n != 0 || left {
		t.Errorf("%d bytes, left %v of a quota that is used up", n, left)
	}
}
