package dial

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cleversocks/conn/wire"
	"cleversocks/resolver"
)

// searchRig is a Dialer whose names are searched in one.test and two.test
// before they are asked for as they are, and what it was asked.
type searchRig struct {
	*Dialer
	mu    sync.Mutex
	asked []string
}

func newSearchRig(t *testing.T, family Family, answers map[string]map[resolver.Family]error) *searchRig {
	t.Helper()
	rig := &searchRig{}
	rig.Dialer = New(Options{
		Family: family,
		Search: func(name string) []string { return []string{name + ".one.test", name + ".two.test", name} },
		Lookup: func(ctx context.Context, name string, family resolver.Family) ([]netip.Addr, error) {
			rig.mu.Lock()
			if !slices.Contains(rig.asked, name) {
				rig.asked = append(rig.asked, name)
			}
			rig.mu.Unlock()
			byFamily, known := answers[name]
			if !known {
				return nil, resolver.ErrNotFound
			}
			err, given := byFamily[family]
			switch {
			case !given:
				return nil, errors.Join(resolver.ErrNotFound, resolver.ErrNoAddress)
			case errors.Is(err, errSilent):
				<-ctx.Done()
				return nil, context.Cause(ctx)
			case err != nil:
				return nil, err
			}
			return addrs("192.0.2.1"), nil
		},
		ConnectTimeout: 200 * time.Millisecond,
	})
	return rig
}

var (
	errSilent = errors.New("no answer")
	errDenied = errors.New("denied")
)

const (
	v4 = resolver.IPv4
	v6 = resolver.IPv6
)

// TestComplete: the name that answers is found as libc finds it, every name is
// judged before a server hears of it, and one that is refused is not asked for.
func TestComplete(t *testing.T) {
	answers := map[string]map[resolver.Family]error{
		"first.one.test":   {v4: nil},
		"first.two.test":   {v4: nil},
		"second.two.test":  {v6: nil},
		"six.one.test":     {v6: nil},
		"six.two.test":     {v4: nil},
		"itself":           {v4: nil, v6: errSilent},
		"empty.one.test":   {},
		"empty.two.test":   {v4: nil},
		"broken.one.test":  {v4: resolver.ErrServers, v6: resolver.ErrServers},
		"broken.two.test":  {v4: nil},
		"silent.one.test":  {v4: errSilent, v6: errSilent},
		"silent.two.test":  {v4: nil},
		"failing.one.test": {v4: resolver.ErrServers, v6: resolver.ErrServers},
	}
	for name, tt := range map[string]struct {
		dest   wire.Addr
		family Family
		deny   string // a suffix
		want   string
		err    error
		asked  string
	}{
		"first of the list":       {dest: wire.Addr{Name: "first"}, want: "first.one.test", asked: "first.one.test"},
		"second of the list":      {dest: wire.Addr{Name: "second"}, want: "second.two.test", asked: "second.one.test second.two.test"},
		"as it is":                {dest: wire.Addr{Name: "itself"}, want: "itself", asked: "itself.one.test itself.two.test itself"},
		"of one family":           {dest: wire.Addr{Name: "six"}, want: "six.one.test", asked: "six.one.test"},
		"of the family not used":  {dest: wire.Addr{Name: "six"}, family: FamilyIPv4, want: "six.two.test", asked: "six.one.test six.two.test"},
		"without any address":     {dest: wire.Addr{Name: "empty"}, want: "empty.two.test", asked: "empty.one.test empty.two.test"},
		"servers fail":            {dest: wire.Addr{Name: "broken"}, want: "broken.two.test", asked: "broken.one.test broken.two.test"},
		"servers fail, then none": {dest: wire.Addr{Name: "failing"}, err: resolver.ErrServers, asked: "failing.one.test failing.two.test failing"},
		"silence":                 {dest: wire.Addr{Name: "silent"}, err: context.DeadlineExceeded, asked: "silent.one.test"},
		"none":                    {dest: wire.Addr{Name: "none"}, err: resolver.ErrNotFound, asked: "none.one.test none.two.test none"},
		"final dot":               {dest: wire.Addr{Name: "first", Absolute: true}, want: "first"},
		"address":                 {dest: wire.Addr{IP: netip.MustParseAddr("192.0.2.9")}, want: "192.0.2.9"},
		"denied":                  {dest: wire.Addr{Name: "first"}, deny: ".test", err: errDenied, asked: "first"},
		"denied, another answers": {dest: wire.Addr{Name: "first"}, deny: ".one.test", want: "first.two.test", asked: "first.two.test"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // silence takes no time
				rig := newSearchRig(t, tt.family, answers)
				tt.dest.Port = 80
				got, err := rig.Complete(t.Context(), tt.dest, Egress{}, func(name string) error {
					if tt.deny != "" && strings.HasSuffix(name, tt.deny) {
						return errDenied
					}
					return nil
				})
				if !errors.Is(err, tt.err) {
					t.Errorf("error %v, want %v", err, tt.err)
				}
				if err == nil && (got.Host() != tt.want || got.Port != 80) {
					t.Errorf("%v, want %v", got, tt.want)
				}
				if err == nil && got.IsName() && !got.Absolute {
					t.Error("the complete name is not marked as such")
				}
				if asked := strings.Join(rig.asked, " "); asked != tt.asked {
					t.Errorf("asked for %q, want %q", asked, tt.asked)
				}
			})
		})
	}
}

// TestLookupPanics: a panic in a look-up fails this look-up, and nothing else.
func TestCompleteLookupPanics(t *testing.T) {
	d := New(Options{
		Search: func(name string) []string { return []string{name + ".test"} },
		Lookup: func(context.Context, string, resolver.Family) ([]netip.Addr, error) { panic("a defect") },
	})
	if _, err := d.Complete(t.Context(), wire.Addr{Name: "x", Port: 1}, Egress{}, nil); !errors.Is(err, resolver.ErrServers) {
		t.Errorf("%v", err)
	}
}
