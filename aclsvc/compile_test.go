package aclsvc

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"cleversocks/conn/netaddr"
)

func TestCompileErrors(t *testing.T) {
	dir := t.TempDir()
	list := filepath.Join(dir, "list.txt")
	if err := os.WriteFile(list, []byte("10.0.0.0/8\n# fine\n\n10.0.0/8 # not\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(dir, "long.txt")
	if err := os.WriteFile(long, bytes.Repeat([]byte("x"), maxListLine+1), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		rule Rule
		want string
	}{
		{Rule{Action: "permit", Where: "c.toml:4"}, `c.toml:4: acl.rules[0].action: "permit"`},
		{Rule{Action: "deny", To: []string{"10.0.0/8"}}, `acl.rules[0].to[0]: "10.0.0/8" is not a CIDR`},
		{Rule{Action: "deny", To: []string{"a.b", "10.0.0"}}, "to[1]: neither an address"},
		{Rule{Action: "deny", To: []string{"a.*.b"}}, "stands only at the front"},
		{Rule{Action: "deny", To: []string{"10.0.0.9-10.0.0.1"}}, "is not a range"},
		{Rule{Action: "deny", To: []string{"10.0.0.9-x"}}, "the range's end"},
		{Rule{Action: "deny", To: []string{"fe80::1%eth0"}}, "zone"},
		{Rule{Action: "deny", To: []string{"file:" + list}}, list + ": line 4: \"10.0.0/8\" is not a CIDR"},
		{Rule{Action: "deny", To: []string{"file:" + long}}, "line 1: longer than"},
		{Rule{Action: "deny", To: []string{"file:" + dir}}, "not a regular file"},
		{Rule{Action: "deny", To: []string{"file:" + dir + "/none"}}, "no such file"},
		{Rule{Action: "deny", To: []string{}}, "to: an empty list"},
		{Rule{Action: "deny", Users: []string{""}}, "users: an empty entry"},
		{Rule{Action: "deny", From: []netip.Prefix{}}, "from: an empty list"},
		{Rule{Action: "deny", Ports: []netaddr.PortRange{}}, "ports: an empty list"},
		{Rule{Action: "deny", Commands: []string{"tunnel"}}, "commands[0]"},
	}
	for _, tt := range tests {
		if _, err := Compile(Options{Rules: []Rule{tt.rule}}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %q", tt.rule, err, tt.want)
		}
	}
}

// An allow list whose file became empty must allow nothing, not everything.
func TestEmptyListMatchesNothing(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list.txt")
	if err := os.WriteFile(list, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	o := Options{Rules: []Rule{{Action: "allow", To: []string{"file:" + list}}}}
	addr := netip.MustParseAddr("8.8.8.8")
	if d := compile(t, o).Decide(query("", 80), addr); d.Allow {
		t.Errorf("allowed by %+v", d)
	}
	if err := os.WriteFile(list, []byte("8.8.8.8\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if d := compile(t, o).Decide(query("", 80), addr); !d.Allow {
		t.Errorf("the list is not read again: %+v", d)
	}
}

func TestParseEntry(t *testing.T) {
	tests := map[string]string{
		"10.1.2.3":                  "[10.1.2.3/32]",
		"10.1.2.3/8":                "[10.0.0.0/8]",
		"::ffff:10.0.0.0/104":       "[10.0.0.0/8]",
		"::ffff:10.0.0.1":           "[10.0.0.1/32]",
		"10.0.0.1-10.0.0.6":         "[10.0.0.1/32 10.0.0.2/31 10.0.0.4/31 10.0.0.6/32]",
		"0.0.0.0-255.255.255.255":   "[0.0.0.0/0]",
		"2001:db8:: - 2001:db8::ff": "[2001:db8::/120]",
		"::-ffff:" + ffff:           "[::/0]",
		"Host-Name.Example.":        "[] host-name.example false",
		"*.B\u00fccher.example":     "[] xn--bcher-kva.example true",
		"_service._tcp.corp":        "[] _service._tcp.corp false",
	}
	for in, want := range tests {
		e, err := parseEntry(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if got := describe(e); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

const ffff = "ffff:ffff:ffff:ffff:ffff:ffff:ffff"

func describe(e entry) string {
	var list []string
	for _, p := range e.prefixes {
		list = append(list, p.String())
	}
	s := "[" + strings.Join(list, " ") + "]"
	switch {
	case e.suffix:
		s += " " + e.name + " true"
	case e.name != "":
		s += " " + e.name + " false"
	}
	return s
}

// The prefixes of a range hold its ends and not their neighbours, and touch
// each other without a gap.
func TestRangeProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.SampledFrom([]int{4, 16}).Draw(t, "size")
		draw := func(name string) netip.Addr {
			a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), size, size).Draw(t, name))
			return a
		}
		first, last := draw("first"), draw("last")
		if last.Less(first) {
			first, last = last, first
		}
		got, err := rangePrefixes(first, last)
		if err != nil || len(got) > 254 {
			t.Fatalf("%d prefixes, %v", len(got), err)
		}
		next := first
		for _, p := range got {
			if p.Addr() != next || p != p.Masked() {
				t.Fatalf("%s-%s: %v", first, last, got)
			}
			next = lastOf(p).Next()
		}
		if lastOf(got[len(got)-1]) != last {
			t.Fatalf("%s-%s: %v", first, last, got)
		}
	})
}

func TestMergePorts(t *testing.T) {
	got := mergePorts([]netaddr.PortRange{{First: 80, Last: 90}, {First: 1, Last: 1}, {First: 91, Last: 100}, {First: 85, Last: 86}, {First: 65535, Last: 65535}, {First: 2, Last: 2}})
	want := []netaddr.PortRange{{First: 1, Last: 2}, {First: 80, Last: 100}, {First: 65535, Last: 65535}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// FuzzReadList: no list panics, and what is read is in the form that is
// compared.
func FuzzReadList(f *testing.F) {
	for _, s := range []string{
		"10.0.0.0/8\n", "# c\n\n*.example.com # x\r\n", "10.0.0.1-10.0.0.9", "::/0\n::ffff:1.2.3.4/100", "*\n", "1.2.3", "\x00", "a-b.c", "[::1]",
		"B\u00fccher.example", "1.1.1.1-::1",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := readList(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, e := range entries {
			if (e.name == "") == (len(e.prefixes) == 0) {
				t.Fatalf("%+v is neither a name nor prefixes", e)
			}
			for _, p := range e.prefixes {
				if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
					t.Fatalf("%+v", e)
				}
			}
			if e.name != "" {
				if again, err := parseEntry(e.name); err != nil || again.name != e.name {
					t.Fatalf("%q is not stable: %q, %v", e.name, again.name, err)
				}
			}
		}
	})
}
