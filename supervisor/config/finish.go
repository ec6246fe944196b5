package config

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"
)

// finisher is what a section needs to read files and judge combinations.
type finisher struct {
	*problems
	ctx   context.Context //nolint:containedctx // lives for one call of Load
	cfg   *Config
	flags *pflag.FlagSet // nil: none
	names *hostNames
}

// finish runs the sections' finishers.
func (r *run) finish(ctx context.Context, flags *pflag.FlagSet, names *hostNames) {
	f := &finisher{problems: &r.problems, ctx: ctx, cfg: r.cfg, flags: flags, names: names}
	for _, section := range r.cfg.finishers() {
		section(f)
	}
}

func (f *finisher) warn(format string, args ...any) {
	f.cfg.Warnings = append(f.cfg.Warnings, fmt.Sprintf(format, args...))
}
