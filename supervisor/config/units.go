package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration written as "30s", "15m" or "1h30m".
type Duration time.Duration

// D is the duration as the standard library has it.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String is the shortest form that UnmarshalText reads: "15m", not "15m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText is String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a number with a unit (ns, us, ms, s, m, h), or several.
// Negative durations are refused: no setting has a use for one.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || strings.HasPrefix(string(text), "-") {
		return errNotAccepted
	}
	*d = Duration(v)
	return nil
}

func (Duration) pattern() string {
	return `^\+?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`
}

func (Duration) accepts() string { return `a duration such as "30s", "15m" or "1h30m"` }

// Size is a number of bytes written as "16KiB", "1MB" or a plain integer.
type Size int64

// units from the longest suffix to the shortest, so that "KiB" is tried
// before "B".
var units = []struct {
	suffix string
	bytes  int64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"kB", 1e3},
	{"KB", 1e3}, // beside MB it is what most people write
	{"MB", 1e6},
	{"GB", 1e9},
	{"TB", 1e12},
	{"B", 1},
	{"", 1},
}

// String is the largest binary unit that divides the size.
func (s Size) String() string {
	for i := 3; i >= 0; i-- {
		if u := units[i]; s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// MarshalText is String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a whole number with a unit: B, KiB, MiB, GiB, TiB, kB or KB,
// MB, GB, TB, or none for bytes.
func (s *Size) UnmarshalText(text []byte) error {
	v, err := parseSize(string(text))
	if err != nil {
		return err
	}
	*s = Size(v)
	return nil
}

// sizePattern is what parseSize takes, but for how much that may be.
const sizePattern = `[0-9]+ ?([KMGT]iB|[kKMGT]?B)?`

func (Size) pattern() string { return "^" + sizePattern + "$" }
func (Size) accepts() string { return `a size such as "16KiB" or "1MB", or a number of bytes` }
func (Size) acceptsInteger() {}

func parseSize(text string) (int64, error) {
	for _, u := range units {
		digits, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSuffix(digits, " "), 10, 63)
		switch {
		case errors.Is(err, strconv.ErrRange) || err == nil && n > uint64(math.MaxInt64/u.bytes):
			return 0, fmt.Errorf("is more than %s", Size(math.MaxInt64))
		case err != nil:
			return 0, errNotAccepted
		}
		return int64(n) * u.bytes, nil
	}
	return 0, errNotAccepted
}

// Rate is a number of bytes a second, written as "50MiB/s".
type Rate int64

// String is the Size form with "/s".
func (r Rate) String() string { return Size(r).String() + "/s" }

// MarshalText is String.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a size followed by "/s".
func (r *Rate) UnmarshalText(text []byte) error {
	size, ok := strings.CutSuffix(string(text), "/s")
	if !ok {
		return errNotAccepted
	}
	v, err := parseSize(size)
	if err != nil {
		return err
	}
	*r = Rate(v)
	return nil
}

func (Rate) pattern() string { return "^" + sizePattern + "/s$" }
func (Rate) accepts() string { return `a rate such as "50MiB/s"` }

// AutoBool is true, false, or "auto": decided by other settings.
type AutoBool string

// The values of AutoBool.
const (
	Auto  AutoBool = "auto"
	True  AutoBool = "true"
	False AutoBool = "false"
)

// Or is the value, or auto's when that is left open.
func (a AutoBool) Or(auto bool) bool {
	switch a {
	case True:
		return true
	case False:
		return false
	default:
		return auto
	}
}

// MarshalText is the value as it is written.
func (a AutoBool) MarshalText() ([]byte, error) { return []byte(a), nil }

// UnmarshalText reads one of the three values.
func (a *AutoBool) UnmarshalText(text []byte) error {
	switch v := AutoBool(text); v {
	case Auto, True, False:
		*a = v
		return nil
	default:
		return errNotAccepted
	}
}

func (AutoBool) pattern() string { return "^(auto|true|false)$" }
func (AutoBool) accepts() string { return `"auto", true or false` }
func (AutoBool) acceptsBool()    {}
