//go:build !linux

package sandbox

import "errors"

const knownVersion = 0

func landlockVersion() int { return 0 }

func hasSeccomp() bool { return false }

func restrict(Plan, int, bool) error { return errors.ErrUnsupported }

func denyCalls(bool) error { return errors.ErrUnsupported }

func forgoCores() error { return nil }
