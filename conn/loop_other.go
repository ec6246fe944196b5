//go:build !linux

package conn

// sameConnection cannot be told on this system.
func sameConnection(dialed, accepted dialedSocket) bool { return false }
