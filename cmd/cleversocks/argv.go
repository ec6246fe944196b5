package main

import "unsafe"

// argv is the process's own arguments: strings that alias the memory which
// other users of the machine read as /proc/PID/cmdline.
type argv []string

// wipe overwrites text with zeros, if it lies in the memory of one of the
// arguments, as flag values do: pflag cuts them out without a copy. Every
// string that aliases the text changes with it, so the caller keeps a clone.
func (a argv) wipe(text string) {
	if text == "" {
		return
	}
	start := address(text)
	for _, arg := range a {
		first := address(arg)
		if first <= start && start+uintptr(len(text)) <= first+uintptr(len(arg)) {
			// The kernel gives a process its arguments in writable memory.
			clear(unsafe.Slice(unsafe.StringData(text), len(text))) //nolint:gosec // in bounds, as just compared
			return
		}
	}
}

// address is where the bytes of s begin.
func address(s string) uintptr {
	return uintptr(unsafe.Pointer(unsafe.StringData(s))) //nolint:gosec // compared, never turned back into a pointer
}
