package config

import (
	"encoding"
	"regexp"
	"testing"
)

// An editor that reads the schema took "30" for a time-out and "50MB" for a rate, which
// the daemon refuses. What the patterns take is what the daemon takes.
func TestPatterns(t *testing.T) {
	texts := []string{
		"", "0", "30", "30s", "1h30m", "1.5h", ".5s", "5.s", "+5s", "-5s", "-0s", "5 s", "5x", "s", "100ms", "1us", "1µs", "1μs", "1d", "0s",
		"16KiB", "1MB", "1kB", "1KB", "1 GiB", "1  GiB", "5TiB", "7TB", "12B", "1Ki", "1.5MiB", "-1KiB", "+1", "1kiB", "1mb",
		"50MiB/s", "1B/s", "1/s", "50MB", "1 KiB/s", "1KiB/ s", "/s",
		"auto", "true", "false", "Auto", "yes",
	}
	for name, kind := range map[string]interface {
		encoding.TextUnmarshaler
		pattern() string
	}{"Duration": new(Duration), "Size": new(Size), "Rate": new(Rate), "AutoBool": new(AutoBool)} {
		form := regexp.MustCompile(kind.pattern())
		for _, text := range texts {
			if err := kind.UnmarshalText([]byte(text)); (err == nil) != form.MatchString(text) {
				t.Errorf("%s %q: %v, and the pattern says %t", name, text, err, form.MatchString(text))
			}
		}
	}
}
