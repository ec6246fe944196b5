package authsvc

import (
	"io"
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"

	"cleversocks/metrics"
)

// Each generation of the users kept the one before it, and that the one before: a
// daemon that is reloaded once a minute had half a million of them within a year.
// What is read of a line's attributes asks the generation before, and was kept to
// judge edits by.
func TestGenerationsOfUsersEnd(t *testing.T) {
	m := &metrics.New().Auth
	generation := func(before *Users) *Users {
		u, err := NewUsers(UsersOptions{
			File: "users", Before: before, Edited: before != nil, AllowPlain: true, Metrics: m,
			Open:       func(string) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("alice:x\n")), nil },
			Attributes: func(string) (Account, error) { return Account{}, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	gone, last := func() (weak.Pointer[Users], *Users) {
		first := generation(nil)
		return weak.Make(first), generation(generation(first))
	}()
	for end := time.Now().Add(10 * time.Second); gone.Value() != nil; runtime.GC() {
		if time.Now().After(end) {
			t.Fatal("the first generation is still there")
		}
	}
	runtime.KeepAlive(last)
}
