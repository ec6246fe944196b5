package sandbox

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A certificate of certbot's and a Kubernetes secret are symbolic links, whose
// targets a plan has to have too; both are renewed by new links.
func TestDirectoriesOfLinks(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"live", "archive", "secret/..2026_01"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	links := map[string]string{
		"live/cert.pem": "../archive/cert1.pem", "secret/..data": "..2026_01", "secret/token": "..data/token", "loop": "loop",
	}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string][]string{
		"live/cert.pem": {"live", "archive"}, "secret/token": {"secret", "secret/..data"}, "nothing": {"."}, "none/at/all": {"none/at"},
	} {
		for i, dir := range want {
			want[i] = filepath.Join(root, dir)
		}
		if diff := cmp.Diff(want, Directories(filepath.Join(root, path))); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", path, diff)
		}
	}
	if n := len(Directories(filepath.Join(root, "loop"))); n != maxLinks {
		t.Errorf("a loop: %d steps", n)
	}
}

// A plan has room for another that stays in its directories and ports, and says
// what it lacks for one that does not.
func TestBeyond(t *testing.T) {
	root := t.TempDir()
	dir := func(name string) string {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	p := Plan{Read: []string{dir("etc")}, Write: []string{dir("state")}, Execute: []string{dir("bin")}, Ports: []Ports{{1080, 1080}, {4000, 4999}, {5000, 5999}}}
	if err := os.Symlink(dir("etc/tls"), filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	within := Plan{
		Read: []string{dir("etc/tls"), dir("state"), dir("bin"), filepath.Join(root, "link"), filepath.Join(root, "missing")}, Sockets: []string{dir("state/run")},
		Ports: []Ports{{0, 0}, {4900, 5100}},
	}
	if lacks := p.Beyond(within); lacks != nil {
		t.Errorf("lacks %q", lacks)
	}
	if err := os.WriteFile(filepath.Join(dir("etc"), "zoneinfo.zip"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if lacks := p.Beyond(Plan{Read: []string{filepath.Join(root, "etc/zoneinfo.zip")}}); lacks != nil {
		t.Errorf("a file has its directory's rule: lacks %q", lacks)
	}
	outside := Plan{Read: []string{dir("etcetera")}, Write: []string{dir("etc")}, Sockets: []string{dir("run")}, Execute: []string{dir("sbin")}, Ports: []Ports{{1081, 1081}, {5998, 6000}}}
	want := []string{
		"reading " + dir("etcetera"), "writing " + dir("etc"), "sockets in " + dir("run"), "programs in " + dir("sbin"), "TCP port 1081", "TCP port 5998-6000",
	}
	if diff := cmp.Diff(want, p.Beyond(outside)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if !slices.Equal((Plan{Read: []string{"/"}}).Beyond(outside)[:1], []string{"writing " + dir("etc")}) {
		t.Error("all is below the root")
	}
}

// What a system lacks is an error where it must be, and told where it need not.
func TestModes(t *testing.T) {
	s, err := Possible(Options{Landlock: Off, Seccomp: Off, CoreDumps: true})
	if err != nil || s.Landlock != 0 || s.Seccomp || !s.Cores || s.LandlockText() != "off" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := Possible(Options{Landlock: On, Seccomp: Off}); (err == nil) != (landlockVersion() > 0) {
		t.Errorf("with version %d: %v", landlockVersion(), err)
	}
	for state, want := range map[string]State{"files (version 3)": {Landlock: 3}, "files and TCP ports (version 7)": {Landlock: 7, Ports: true}} {
		if got := want.LandlockText(); got != state {
			t.Errorf("%q, want %q", got, state)
		}
	}
}
