package sandbox

import (
	"errors"
	"fmt"
)

// Mode says how much a part is wanted.
type Mode string

// The modes.
const (
	Auto Mode = "auto" // as much as the system has; no ports, so that a reload may open others
	On   Mode = "on"   // it is an error when the system lacks it; ports too
	Off  Mode = "off"
)

// Options is what Enter needs.
type Options struct {
	Landlock, Seccomp Mode
	// CoreDumps leaves the process its core dumps.
	CoreDumps bool
	Plan      Plan

	// version is Landlock's in tests, of older kernels; noLandlock: of those
	// without it; 0: what this one has.
	version int
}

const noLandlock = -1

func (o Options) landlock() int {
	version := landlockVersion()
	if o.version == 0 || version == 0 {
		return version
	}
	return max(min(version, o.version), 0)
}

// State is what is in force.
type State struct {
	// Landlock is the version of its interface; 0: it is not in force.
	Landlock int `json:"landlock"`
	// Ports says whether Landlock holds TCP binds too (from version 4 on).
	Ports   bool `json:"ports"`
	Seccomp bool `json:"seccomp"`
	// Cores is whether the process may leave a core dump with its memory in it.
	Cores bool `json:"cores"`
	// Inherited says that a predecessor has entered it. It cannot be widened or
	// left; another process begins anew.
	Inherited bool `json:"inherited"`
	Plan      Plan `json:"plan"`
}

// LandlockText tells what Landlock holds.
func (s State) LandlockText() string {
	switch {
	case s.Landlock == 0:
		return "off"
	case s.Ports:
		return fmt.Sprintf("files and TCP ports (version %d)", s.Landlock)
	}
	return fmt.Sprintf("files (version %d)", s.Landlock)
}

// PlanText tells what of the plan is in force.
func (s State) PlanText() string {
	p := s.Plan
	if !s.Ports {
		p.Ports = nil
	}
	return p.text(s.Ports)
}

// errLacks is wrapped by errors about what the system does not have.
var errLacks = errors.New("this system does not have it")

// portsSince is the version of Landlock's interface from which on it knows TCP.
const portsSince = 4

// Possible is what Enter would bring about with these options on this system, or
// why it would refuse.
func Possible(o Options) (State, error) {
	s := State{Cores: o.CoreDumps, Plan: o.Plan.resolved()}
	abi := o.landlock()
	switch {
	case o.Landlock == Off:
	case abi > 0:
		s.Landlock, s.Ports = min(abi, knownVersion), o.Landlock == On && abi >= portsSince
	case o.Landlock == On:
		return State{}, fmt.Errorf("landlock: %w (its kernel is older than 5.13, or started without lsm=landlock)", errLacks)
	}
	switch {
	case o.Seccomp == Off:
	case hasSeccomp():
		s.Seccomp = true
	case o.Seccomp == On:
		return State{}, fmt.Errorf("seccomp: %w", errLacks)
	}
	return s, nil
}

// Enter gives up what the plan does not have, on all threads. It is called when
// everything is open, once. On an error some of it may be in force.
func Enter(o Options) (State, error) {
	s, err := Possible(o)
	if err != nil {
		return State{}, err
	}
	if !o.CoreDumps {
		if err := forgoCores(); err != nil {
			return State{}, fmt.Errorf("core dumps: %w", err)
		}
	}
	if s.Landlock > 0 {
		if err := restrict(s.Plan, s.Landlock, s.Ports); err != nil {
			return State{}, fmt.Errorf("landlock: %w", err)
		}
	}
	if s.Seccomp {
		if err := denyCalls(len(s.Plan.Execute) > 0); err != nil {
			return State{}, fmt.Errorf("seccomp: %w", err)
		}
	}
	return s, nil
}
