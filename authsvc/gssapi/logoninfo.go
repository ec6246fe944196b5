package gssapi

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// pacMaxSIDs bounds the groups that are read from one PAC. Active Directory's
// own limit is 1,024 for a token.
const pacMaxSIDs = 4096

// Offsets in the fixed part of a KERB_VALIDATION_INFO (MS-PAC §2.5) behind the
// two NDR headers and the pointer to it.
const (
	infoHeaders        = 8 + 8 + 4
	infoStrings        = 48 // six of them, each with its pointer at +4
	infoGroupCount     = 108
	infoGroups         = 112 // a pointer
	infoServerAndName  = 136 // two strings
	infoDomain         = 152 // a pointer to a SID
	infoSIDCount       = 196
	infoSIDs           = 200
	infoResourceDomain = 204
	infoResourceCount  = 208
	infoResources      = 212
	infoFixed          = 216
)

// logonSIDs are the SIDs of a user's groups in a PAC's logon information:
// those of the domain, the extra ones, those of the resource domain. The
// library's reader makes room for counts of 32 bits before it looks whether so
// much is there; this one reads what is needed, and takes no count's word.
func logonSIDs(raw []byte) ([]string, error) {
	if len(raw) < infoHeaders+infoFixed {
		return nil, errPAC
	}
	fixed := raw[infoHeaders : infoHeaders+infoFixed]
	at := func(offset int) uint32 { return binary.LittleEndian.Uint32(fixed[offset:]) }
	r := &ndrReader{b: raw, at: infoHeaders + infoFixed}
	for i := range 6 {
		r.text(at(infoStrings + 8*i + 4))
	}
	groups := r.memberships(at(infoGroups), at(infoGroupCount))
	for i := range 2 {
		r.text(at(infoServerAndName + 8*i + 4))
	}
	var domain string
	if at(infoDomain) != 0 {
		domain = r.sid()
	}
	extra := r.extraSIDs(at(infoSIDs), at(infoSIDCount))
	var resourceDomain string
	if at(infoResourceDomain) != 0 {
		resourceDomain = r.sid()
	}
	resources := r.memberships(at(infoResources), at(infoResourceCount))
	if r.failed {
		return nil, fmt.Errorf("%w: logon information", errPAC)
	}
	var sids []string
	for _, rid := range groups {
		sids = append(sids, fmt.Sprintf("%s-%d", domain, rid))
	}
	sids = append(sids, extra...)
	for _, rid := range resources {
		sids = append(sids, fmt.Sprintf("%s-%d", resourceDomain, rid))
	}
	return sids, nil
}

// ndrReader reads the deferred part of a structure in NDR, little-endian (C706
// §14). Past the end it fails, once and for all, and gives zeros.
type ndrReader struct {
	b      []byte
	at     int
	failed bool
}

// take is the next n bytes; nil past the end.
func (r *ndrReader) take(n int) []byte {
	if r.failed || n > len(r.b)-r.at {
		r.failed = true
		return nil
	}
	r.at += n
	return r.b[r.at-n : r.at]
}

func (r *ndrReader) uint32() uint32 {
	r.at = (r.at + 3) &^ 3
	b := r.take(4)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint32(b)
}

// count is a number of elements, each of size bytes at least.
func (r *ndrReader) count(size int) int {
	n := r.uint32()
	if n > pacMaxSIDs || int(n)*size > len(r.b)-r.at {
		r.failed = true
		return 0
	}
	return int(n)
}

// text skips a string, whose pointer is given: maximum, offset, length, and the
// characters, of 16 bits each.
func (r *ndrReader) text(pointer uint32) {
	if pointer == 0 {
		return
	}
	r.uint32()
	r.uint32()
	n := r.uint32()
	if int64(n)*2 > int64(len(r.b)) {
		r.failed = true
		return
	}
	r.take(int(n) * 2)
}

// memberships are the relative ids of an array of GROUP_MEMBERSHIP.
func (r *ndrReader) memberships(pointer, want uint32) []uint32 {
	if pointer == 0 {
		return nil
	}
	n := r.count(8)
	if uint32(n) != want {
		r.failed = true
		return nil
	}
	ids := make([]uint32, 0, n)
	for range n {
		ids = append(ids, r.uint32())
		r.uint32() // attributes
	}
	return ids
}

// extraSIDs are those of an array of KERB_SID_AND_ATTRIBUTES.
func (r *ndrReader) extraSIDs(pointer, want uint32) []string {
	if pointer == 0 {
		return nil
	}
	n := r.count(8)
	if uint32(n) != want {
		r.failed = true
		return nil
	}
	present := make([]bool, n)
	for i := range n {
		present[i] = r.uint32() != 0
		r.uint32() // attributes
	}
	var sids []string
	for _, p := range present {
		if p && !r.failed {
			sids = append(sids, r.sid())
		}
	}
	return sids
}

// sid reads an RPC_SID (MS-DTYP §2.4.2.3) as text.
func (r *ndrReader) sid() string {
	n := r.count(4)
	head := r.take(8)
	if head == nil || int(head[1]) != n || n > 15 {
		r.failed = true
		return ""
	}
	authority := uint64(0)
	for _, b := range head[2:8] {
		authority = authority<<8 | uint64(b)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "S-%d-%d", head[0], authority)
	for range n {
		fmt.Fprintf(&text, "-%d", r.uint32())
	}
	return text.String()
}
