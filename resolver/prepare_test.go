package resolver

import (
	"os"
	"path/filepath"
	"testing"

	"cleversocks/metrics"
)

// TestPrepare: options are verified without being in force, and then are, or
// never.
func TestPrepare(t *testing.T) {
	hostsFile := func(address string) string {
		path := filepath.Join(t.TempDir(), "hosts")
		if err := os.WriteFile(path, []byte(address+" here.test\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const conf = "/nonexistent/resolv.conf"
	r, err := New(t.Context(), Options{ResolvConf: conf, Hosts: hostsFile("192.0.2.1"), Metrics: metrics.New().DNS})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	is := func(want string) {
		t.Helper()
		addrs, err := r.Lookup(t.Context(), "here.test", IPv4)
		if err != nil || len(addrs) != 1 || addrs[0].String() != want {
			t.Errorf("here.test is %v, %v; want %s", addrs, err, want)
		}
	}
	next := Options{ResolvConf: conf, Hosts: hostsFile("192.0.2.2"), Metrics: metrics.New().DNS}
	change, err := r.Prepare(next)
	if err != nil {
		t.Fatal(err)
	}
	is("192.0.2.1")
	change.Rollback()
	is("192.0.2.1")
	if _, err := r.Prepare(Options{ResolvConf: conf, Hosts: t.TempDir()}); err == nil {
		t.Error("a directory was taken for a hosts file")
	}
	if change, err = r.Prepare(next); err != nil {
		t.Fatal(err)
	}
	change.Commit()
	is("192.0.2.2")
}
