package gssapi

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"testing"

	"github.com/go-krb5/krb5/crypto"
	"github.com/go-krb5/krb5/test/testdata"
	"github.com/go-krb5/krb5/types"
)

// signedPAC is a PAC with a logon information, signed with the service's key.
func signedPAC(tb testing.TB, logon []byte, key types.EncryptionKey) []byte {
	tb.Helper()
	et, err := crypto.GetEtype(key.KeyType)
	if err != nil {
		tb.Fatal(err)
	}
	size := et.GetHMACBitLength() / 8
	own := binary.LittleEndian.AppendUint32(nil, map[int32]uint32{17: 15, 18: 16, 19: 19, 20: 20}[key.KeyType])
	kdc := binary.LittleEndian.AppendUint32(nil, 16)
	buffers := []struct {
		kind uint32
		data []byte
	}{{pacLogonInfo, logon}, {pacServerSignature, append(own, make([]byte, size)...)}, {pacKDCSignature, append(kdc, make([]byte, 12)...)}}
	head := binary.LittleEndian.AppendUint64(nil, uint64(len(buffers)))
	var body []byte
	at := 0
	for i, b := range buffers {
		offset := 8 + 16*len(buffers) + len(body)
		if i == 1 {
			at = offset + 4
		}
		head = binary.LittleEndian.AppendUint32(head, b.kind)
		head = binary.LittleEndian.AppendUint32(head, uint32(len(b.data)))
		head = binary.LittleEndian.AppendUint64(head, uint64(offset))
		body = append(body, b.data...)
		for len(body)%8 != 0 {
			body = append(body, 0)
		}
	}
	raw := append(head, body...)
	sum, err := et.GetChecksumHash(key.KeyValue, raw, pacUsage)
	if err != nil {
		tb.Fatal(err)
	}
	copy(raw[at:], sum)
	return raw
}

// microsoftsLogon is the logon information of MS-PAC §3.
func microsoftsLogon(tb testing.TB) []byte {
	tb.Helper()
	b, err := hex.DecodeString(testdata.MarshaledPAC_Kerb_Validation_Info_MS)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// The SIDs of a PAC are those of the user's groups, once the service's own key
// has proven that the KDC wrote it; a byte that was changed anywhere is noticed.
func TestPAC(t *testing.T) {
	for etype := range etypes {
		key := newKey(etype)
		raw := signedPAC(t, microsoftsLogon(t), key)
		sids, err := sidsOf(raw, key)
		if err != nil || !slices.Contains(sids, "S-1-5-21-397955417-626881126-188441444-513") {
			t.Fatalf("etype %d: %v, %v", etype, sids, err)
		}
		if _, err := sidsOf(raw, newKey(etype)); err == nil {
			t.Error("signed by somebody else, and believed")
		}
		for i := range raw {
			changed := bytes.Clone(raw)
			changed[i] ^= 1
			// What is behind the KDC's signature, and that itself, is not signed.
			if _, err := sidsOf(changed, key); err == nil && i < len(raw)-16 {
				t.Fatalf("etype %d: byte %d of %d was changed, and believed", etype, i, len(raw))
			}
		}
	}
	m, err := NewMapping(MappingOptions{Groups: []string{"S-1-5-21-1-513 = staff", "S-1-5-21-1-600 = staff", "S-1-5-21-1-9=other"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := m.groupsOf([]string{"S-1-5-21-1-600", "S-1-5-21-1-513", "S-1-5-21-1-1"}); !slices.Equal(got, []string{"staff"}) {
		t.Errorf("groups %q", got)
	}
}

// FuzzPAC gives parsers that trust lengths a PAC that is signed, as a KDC with
// a defect would.
func FuzzPAC(f *testing.F) {
	key := types.EncryptionKey{KeyType: 18, KeyValue: make([]byte, 32)}
	f.Add(microsoftsLogon(f))
	f.Add([]byte{1, 16, 8, 0, 0xcc, 0xcc, 0xcc, 0xcc})
	f.Fuzz(func(t *testing.T, logon []byte) {
		_, _ = pacSIDs(inTicket(signedPAC(t, logon, key)), key)
		_, _ = pacBuffers(logon)
	})
}

// inTicket is a PAC as a ticket carries it.
func inTicket(raw []byte) types.AuthorizationData {
	inner := der(0x30, der(0x30, der(0xa0, derUint(adWin2KPAC)), der(0xa1, der(4, raw))))
	return types.AuthorizationData{{ADType: adIfRelevant, ADData: inner}}
}
