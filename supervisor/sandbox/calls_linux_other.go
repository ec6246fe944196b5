//go:build linux && !amd64 && !arm64 && !arm && !riscv64

package sandbox

// Of other machines nobody has tried which calls there are.
const (
	architecture = 0
	foreign      = 1 << 31
)

var deniedHere []uint32
