package supervisor

import (
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"cleversocks/conn"
	"cleversocks/metrics"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/shortage"
)

// TestEveryBoundIsTold: pipes, spare descriptors, shared sockets and the admin
// endpoint's places ran out without a line at any level. Each bound that the
// metrics have is one of those that the log tells of.
func TestEveryBoundIsTold(t *testing.T) {
	m := metrics.New()
	setting := func(func(*config.Config) int) func() int64 { return func() int64 { return 0 } }
	c := &core{access: conn.NewAccessLog(slog.New(slog.DiscardHandler), m)}
	told := func() (sum uint64) {
		for _, list := range [][]shortage.Limit{clientBounds(m, c, setting), datagramBounds(m, setting), sharedBounds(m, c, setting), operatorBounds(m)} {
			for _, l := range list {
				sum += l.Count()
			}
		}
		return sum
	}
	var text strings.Builder
	m.WritePrometheus(&text)
	names := regexp.MustCompile(`cleversocks_limits_reached_total\{limit="(\w+)"\}`).FindAllStringSubmatch(text.String(), -1)
	if len(names) < 10 {
		t.Fatalf("only %d bounds in\n%s", len(names), text.String())
	}
	for _, name := range names {
		if name[1] == "other" {
			continue
		}
		before := told()
		m.Limits.Of(name[1]).Inc()
		if told() != before+1 {
			t.Errorf("the log does not tell of %s", name[1])
		}
	}
}
