package main

import (
	"strings"
	"testing"

	"cleversocks/supervisor/learn"
)

// A quota of 1 GiB of which 50 KiB were used was 1024.0 MiB.
func TestSize(t *testing.T) {
	for bytes, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1<<20 - 1: "1.0 MiB", 1<<30 - 50<<10: "1.0 GiB", 1<<30 - 1<<20: "1023.0 MiB", 3 << 40: "3.0 TiB",
	} {
		if got := size(bytes); got != want {
			t.Errorf("%d: %s, want %s", bytes, got, want)
		}
	}
}

// Where nothing was denied, learn wrote of requests "from no time to no time".
func TestNothingToLearn(t *testing.T) {
	var b strings.Builder
	if err := learn.WriteTOML(&b, &learn.Seen{}, nil); err != nil || strings.Contains(b.String(), "no time") || !strings.Contains(b.String(), "nothing to allow") {
		t.Errorf("%v, %s", err, b.String())
	}
}
