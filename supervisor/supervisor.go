// Package supervisor builds the tree of services and runs it.
package supervisor

import (
	"context"
	"errors"
	"log/slog"

	"cleversocks/supervisor/config"
)

// Options is what Run is given.
type Options struct {
	Load     func() (*config.Config, error) // reads everything again: at start and on SIGHUP
	Logger   *slog.Logger
	Access   *slog.Logger
	ApplyLog func(config.Log) error
	Version  string
}

// Run serves until it is told to end. nil: drained; an error: failed. A
// configuration error wraps config.ErrInvalid.
func Run(_ context.Context, o Options) error {
	cfg, err := o.Load()
	if err != nil {
		return err
	}
	if err := o.ApplyLog(cfg.Log); err != nil {
		return err
	}
	for _, w := range cfg.Warnings {
		o.Logger.Warn(w) //nolint:sloglint // a warning of the configuration is its own message
	}
	return errors.New("nothing to run yet")
}
