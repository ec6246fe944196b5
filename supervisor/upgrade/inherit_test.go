package upgrade

import (
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		environ []string
		names   []string
		from    bool   // a predecessor
		why     string // there are none
		err     string
	}{
		"nothing":            {environ: []string{"HOME=/"}},
		"one, unnamed":       {environ: []string{"LISTEN_PID=7", "LISTEN_FDS=1"}, names: []string{"unknown"}},
		"two":                {environ: []string{"LISTEN_PID=7", "LISTEN_FDS=2", "LISTEN_FDNAMES=proxy:admin"}, names: []string{"proxy", "admin"}},
		"one name for two":   {environ: []string{"LISTEN_PID=7", "LISTEN_FDS=2", "LISTEN_FDNAMES=proxy:proxy"}, names: []string{"proxy", "proxy"}},
		"an empty name":      {environ: []string{"LISTEN_PID=7", "LISTEN_FDS=1", "LISTEN_FDNAMES="}, names: []string{""}},
		"none":               {environ: []string{"LISTEN_PID=7", "LISTEN_FDS=0"}, names: []string{}},
		"another process's":  {environ: []string{"LISTEN_PID=8", "LISTEN_FDS=1"}, why: "LISTEN_PID is 8, and this is process 7"},
		"no pid":             {environ: []string{"LISTEN_FDS=1"}, why: "LISTEN_PID is not set"},
		"a pid of words":     {environ: []string{"LISTEN_PID=me", "LISTEN_FDS=1"}, err: "is no process id"},
		"no number":          {environ: []string{"LISTEN_PID=7", "LISTEN_FDS=x"}, err: "is no number"},
		"a negative number":  {environ: []string{"LISTEN_PID=7", "LISTEN_FDS=-1"}, err: "is no number"},
		"too many":           {environ: []string{"LISTEN_PID=7", "LISTEN_FDS=99999"}, err: "is no number"},
		"names do not fit":   {environ: []string{"LISTEN_PID=7", "LISTEN_FDS=2", "LISTEN_FDNAMES=a"}, err: "has 1 names"},
		"from a predecessor": {environ: []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=predecessor:listener", Marker + "=3"}, names: []string{"predecessor", "listener"}, from: true},
		"many":               {environ: []string{"LISTEN_PID=7", "LISTEN_FDS=2000"}, names: slices.Repeat([]string{"unknown"}, 2000)},
		"no channel":         {environ: []string{"LISTEN_FDS=0", Marker + "=3"}, err: "there is no channel"},
		"a marker alone":     {environ: []string{Marker + "=3"}},
	} {
		got, err := parse(c.environ, 7)
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want %q", name, err, c.err)
		}
		if !slices.Equal(got.names, c.names) || got.predecessor != c.from || !strings.HasPrefix(got.why, c.why) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// The errors of a name that nothing was passed for say what to look at.
func TestNamedErrors(t *testing.T) {
	for want, i := range map[string]*Inherited{
		"LISTEN_FDS is not set": nil,
		"a shell in between":    {why: "LISTEN_PID is 8, and this is process 7: a shell in between has to exec"},
	} {
		if _, err := i.Named("proxy"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
