package proxyproto

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strings"

	proxy "github.com/pires/go-proxyproto"
	"github.com/pires/go-proxyproto/tlvparse"
)

// TLV is one of the extra fields of a version 2 header, for logs.
type TLV struct {
	Name  string // as the specification has it, in lower case; "0xe7" when it is not named there
	Value string // raw bytes: escape them. What is longer than maxValue is cut
}

// maxTLVs bounds how many fields of one header are kept, and maxValue how much of
// each: a certificate would be more than all the rest of a record.
const (
	maxTLVs  = 16
	maxValue = 256
)

// names are the fields that have one.
var names = map[proxy.PP2Type]string{
	proxy.PP2_TYPE_ALPN:           "alpn",
	proxy.PP2_TYPE_AUTHORITY:      "authority",
	proxy.PP2_TYPE_UNIQUE_ID:      "unique_id",
	proxy.PP2_TYPE_NETNS:          "netns",
	tlvparse.PP2_TYPE_AWS:         "aws",
	tlvparse.PP2_TYPE_AZURE:       "azure",
	tlvparse.PP2_TYPE_GCP:         "gcp",
	proxy.PP2_SUBTYPE_SSL_CN:      "ssl_cn",
	proxy.PP2_SUBTYPE_SSL_VERSION: "ssl_version",
}

// readTLVs checks the fields' framing and their checksum, if there is one (§2.2.4
// of the specification demands that), and keeps those that tell something.
func readTLVs(raw []byte, header *proxy.Header) ([]TLV, error) {
	fields, err := header.TLVs()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHeader, err)
	}
	var out []TLV
	for _, f := range fields {
		switch f.Type {
		case proxy.PP2_TYPE_NOOP:
		case proxy.PP2_TYPE_CRC32C:
			if err := checkSum(raw, f.Value); err != nil {
				return nil, err
			}
		case proxy.PP2_TYPE_SSL:
			out = appendSSL(out, f)
		default:
			out = append(out, TLV{Name: name(f.Type), Value: clip(f.Value)})
		}
	}
	return out[:min(len(out), maxTLVs)], nil
}

func name(t proxy.PP2Type) string {
	if n := names[t]; n != "" {
		return n
	}
	return fmt.Sprintf("0x%02x", byte(t))
}

func clip(value []byte) string {
	if len(value) > maxValue {
		return string(value[:maxValue]) + "..."
	}
	return string(value)
}

// appendSSL adds what the load balancer says of its TLS connection.
func appendSSL(out []TLV, f proxy.TLV) []TLV {
	ssl, err := tlvparse.SSL(f)
	if err != nil {
		return append(out, TLV{Name: "ssl", Value: clip(f.Value)})
	}
	for _, sub := range ssl.TLV {
		out = append(out, TLV{Name: "ssl_" + strings.TrimPrefix(name(sub.Type), "ssl_"), Value: clip(sub.Value)})
	}
	return out
}

// checkSum compares the header with its CRC-32C, taken with the checksum's own
// four bytes as zero.
func checkSum(raw, sum []byte) error {
	if len(sum) != crc32.Size {
		return fmt.Errorf("%w: a checksum of %d bytes", ErrHeader, len(sum))
	}
	zeroed := append([]byte(nil), raw...)
	at := checkSumAt(raw)
	if at < 0 {
		return fmt.Errorf("%w: no checksum where one is said to be", ErrHeader)
	}
	clear(zeroed[at : at+crc32.Size])
	if crc32.Checksum(zeroed, crc32.MakeTable(crc32.Castagnoli)) != binary.BigEndian.Uint32(sum) {
		return fmt.Errorf("%w: wrong checksum", ErrHeader)
	}
	return nil
}

// addressLengths are the bytes of addresses by family, the high half of a
// header's byte 13: unspecified, IPv4, IPv6, unix.
var addressLengths = [...]int{0, 12, 36, 216}

// checkSumAt is the offset of the checksum's value in a header; -1: none.
func checkSumAt(raw []byte) int {
	family := int(raw[13] >> 4)
	if family >= len(addressLengths) {
		return -1
	}
	for at := fixed + addressLengths[family]; at+3 <= len(raw); {
		length := int(binary.BigEndian.Uint16(raw[at+1:]))
		if proxy.PP2Type(raw[at]) == proxy.PP2_TYPE_CRC32C && at+3+length <= len(raw) {
			return at + 3
		}
		at += 3 + length
	}
	return -1
}
