package gssapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/go-krb5/krb5/crypto"
	"github.com/go-krb5/krb5/types"
)

// The buffers of a PAC that are looked at, MS-PAC §2.4.
const (
	pacLogonInfo       = 1
	pacServerSignature = 6
	pacKDCSignature    = 7

	pacMaxBuffers = 64
	pacUsage      = 17 // KERB_NON_KERB_CKSUM_SALT

	adIfRelevant = 1
	adWin2KPAC   = 128
)

// errPAC is a PAC that is damaged, or not signed with our key.
var errPAC = errors.New("malformed PAC")

// pacSIDs are the SIDs of the user's groups from the PAC that Active Directory
// puts into a ticket; none when there is no PAC, or one without groups, as MIT's
// KDC makes. The service's key has signed it: that is checked before anything
// of it is read.
func pacSIDs(data types.AuthorizationData, key types.EncryptionKey) (sids []string, err error) {
	defer func() {
		if recover() != nil { // the library's parsers trust lengths
			sids, err = nil, errPAC
		}
	}()
	for _, ad := range data {
		if ad.ADType != adIfRelevant {
			continue
		}
		var inner types.AuthorizationData
		if err := inner.Unmarshal(ad.ADData); err != nil {
			continue
		}
		for _, one := range inner {
			if one.ADType == adWin2KPAC {
				return sidsOf(one.ADData, key)
			}
		}
	}
	return nil, nil
}

func sidsOf(raw []byte, key types.EncryptionKey) ([]string, error) {
	buffers, err := pacBuffers(raw)
	if err != nil {
		return nil, err
	}
	if err := pacVerify(raw, buffers, key); err != nil {
		return nil, err
	}
	at, ok := buffers[pacLogonInfo]
	if !ok {
		return nil, nil
	}
	return logonSIDs(raw[at[0]:at[1]])
}

// pacBuffers finds the buffers of a PAC by type, the first of each.
func pacBuffers(raw []byte) (map[uint32][2]int, error) {
	if len(raw) < 8 {
		return nil, errPAC
	}
	n := int(binary.LittleEndian.Uint32(raw))
	if n > pacMaxBuffers || len(raw) < 8+16*n {
		return nil, errPAC
	}
	buffers := make(map[uint32][2]int, n)
	for i := range n {
		head := raw[8+16*i:]
		kind, size, offset := binary.LittleEndian.Uint32(head), uint64(binary.LittleEndian.Uint32(head[4:])), binary.LittleEndian.Uint64(head[8:])
		if offset > uint64(len(raw)) || size > uint64(len(raw))-offset {
			return nil, errPAC
		}
		if _, double := buffers[kind]; !double {
			buffers[kind] = [2]int{int(offset), int(offset + size)}
		}
	}
	return buffers, nil
}

// pacVerify checks the signature of the service's key, which is made with the
// two signatures' places zero (MS-PAC §2.8.2).
func pacVerify(raw []byte, buffers map[uint32][2]int, key types.EncryptionKey) error {
	plain := bytes.Clone(raw)
	var given []byte
	var kind uint32
	for _, which := range []uint32{pacServerSignature, pacKDCSignature} {
		at, ok := buffers[which]
		if !ok || at[1]-at[0] < 4 {
			return fmt.Errorf("%w: no signature", errPAC)
		}
		signature := plain[at[0]:at[1]]
		size, ok := map[uint32]int{15: 12, 16: 12, 19: 16, 20: 24, 0xffffff76: 16}[binary.LittleEndian.Uint32(signature)]
		if !ok || len(signature) < 4+size {
			return fmt.Errorf("%w: signature", errPAC)
		}
		if which == pacServerSignature {
			kind, given = binary.LittleEndian.Uint32(signature), bytes.Clone(signature[4:4+size])
		}
		clear(signature[4 : 4+size])
	}
	// The kind is that of the key: a weaker one would be somebody's choice.
	want := map[int32]uint32{17: 15, 18: 16, 19: 19, 20: 20}[key.KeyType]
	if kind != want {
		return fmt.Errorf("%w: a signature of another key's kind", errPAC)
	}
	et, err := crypto.GetEtype(key.KeyType)
	if err != nil {
		return err
	}
	if !et.VerifyChecksum(key.KeyValue, plain, given, pacUsage) {
		return fmt.Errorf("%w: the signature is not by the service's key", errPAC)
	}
	return nil
}
