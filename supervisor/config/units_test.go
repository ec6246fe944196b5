package config

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestUnitsRoundTrip: what is printed is read as the same value.
func TestUnitsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Min(0).Draw(t, "n")
		var d Duration
		if err := d.UnmarshalText([]byte(Duration(n).String())); err != nil || d != Duration(n) {
			t.Fatalf("%d: %s, %v", n, d, err)
		}
		minutes := Duration(time.Duration(n%100_000) * time.Minute)
		if err := d.UnmarshalText([]byte(minutes.String())); err != nil || d != minutes {
			t.Fatalf("%s: %s, %v", time.Duration(minutes), d, err)
		}
		var s Size
		if err := s.UnmarshalText([]byte(Size(n).String())); err != nil || s != Size(n) {
			t.Fatalf("%d: %s, %v", n, s, err)
		}
		var r Rate
		if err := r.UnmarshalText([]byte(Rate(n).String())); err != nil || r != Rate(n) {
			t.Fatalf("%d: %s, %v", n, r, err)
		}
	})
}

// "1MB" was a size and "10KB" none.
func TestDecimalUnits(t *testing.T) {
	for text, want := range map[string]Size{"10KB": 10_000, "10kB": 10_000, "1MB": 1_000_000, "10 KB": 10_000, "10KiB": 10_240} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s: %d, %v", text, s, err)
		}
	}
}
