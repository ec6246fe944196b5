//go:build !linux

package aclsvc

import "net/netip"

// hostRanges are the addresses of the interfaces.
func hostRanges() ([]netip.Prefix, error) { return interfaceAddrs() }
