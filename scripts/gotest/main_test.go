package main

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"
)

// TestMessageIsLast: 300 lines of shell completion hid the message of the test
// that failed. It must be the last thing that the log shows.
func TestMessageIsLast(t *testing.T) {
	var in, out bytes.Buffer
	say := func(e event) {
		b, _ := json.Marshal(e)
		in.Write(append(b, '\n'))
	}
	say(event{Action: "output", Package: "p", Test: "TestX", Output: "=== RUN   TestX\n"})
	for range 300 {
		say(event{Action: "output", Package: "p", Test: "TestX", Output: "        completion line\n"})
	}
	say(event{Action: "output", Package: "p", Test: "TestX", Output: "    x_test.go:7: want 1, got 2:\n"})
	say(event{Action: "output", Package: "p", Test: "TestX", Output: "        and a second line\n"})
	for range 300 {
		say(event{Action: "output", Package: "p", Test: "TestX", Output: "another log\n"})
	}
	say(event{Action: "output", Package: "p", Test: "TestX", Output: "--- FAIL: TestX (0.00s)\n"})
	say(event{Action: "fail", Package: "p", Test: "TestX"})
	say(event{Action: "pass", Package: "p", Test: "TestY"})
	say(event{Action: "fail", Package: "p"})
	in.WriteString("no JSON\n")
	r := newResults(io.Discard, &out)
	if err := r.read(&in); err != nil {
		t.Fatal(err)
	}
	if err := r.report(); err == nil || err.Error() != "1 passed, 1 failed, 0 skipped themselves" {
		t.Errorf("%v", err)
	}
	const want = "== what failed ==\n--- FAIL: p TestX\n    x_test.go:7: want 1, got 2:\n        and a second line\n"
	if !strings.HasSuffix(out.String(), want) {
		t.Errorf("the end is %q", out.String()[max(0, out.Len()-300):])
	}
}

// A package that does not build, and one whose binary panics, say so.
func TestPackagesThatEndEarly(t *testing.T) {
	for _, tt := range []struct{ events, want string }{
		{
			`{"ImportPath":"p","Action":"build-output","Output":"p/x.go:3:1: undefined: y\n"}` + "\n" + `{"ImportPath":"p","Action":"build-fail"}`,
			"undefined: y\n",
		},
		{
			`{"Package":"p","Action":"output","Output":"panic: boom\n"}` + "\n" + `{"Package":"p","Action":"output","Output":"goroutine 1\n"}` + "\n" + `{"Package":"p","Action":"fail"}`,
			"panic: boom\ngoroutine 1\n",
		},
		{
			`{"Package":"p","Test":"TestS","Action":"output","Output":"    s_test.go:3: left out: no promtool\n"}` + "\n" + `{"Package":"p","Test":"TestS","Action":"skip"}`,
			"--- SKIP: p TestS\n    s_test.go:3: left out: no promtool\n",
		},
	} {
		var out bytes.Buffer
		r := newResults(io.Discard, &out)
		if err := r.read(strings.NewReader(tt.events)); err != nil {
			t.Fatal(err)
		}
		if r.report() == nil || !strings.HasSuffix(out.String(), tt.want) {
			t.Errorf("the end of %q is not %q", out.String(), tt.want)
		}
	}
}
