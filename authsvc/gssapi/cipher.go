package gssapi

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"

	"github.com/go-krb5/krb5/crypto"
	"github.com/go-krb5/krb5/types"
)

// errIntegrity is a message that was changed on its way, or was never ours.
var errIntegrity = errors.New("integrity check failed")

// block is the size of AES's blocks, of the confounder, and of the room that
// encrypting in place needs behind the message.
const block = aes.BlockSize

// etypes are the encryption types that are accepted: AES of RFC 3962 (17, 18)
// and RFC 8009 (19, 20). RC4 and DES are broken.
var etypes = map[int32]string{
	17: "aes128-cts-hmac-sha1-96", 18: "aes256-cts-hmac-sha1-96",
	19: "aes128-cts-hmac-sha256-128", 20: "aes256-cts-hmac-sha384-192",
}

// keyBytes is how long a key is; the library says 24 for etype 20.
func keyBytes(etype int32) int {
	if etype%2 == 1 {
		return 16
	}
	return 32
}

// directional is what protects the messages of one direction: the library
// derives the keys, and allocates several times a message's size for each, so
// that the rest is written here for buffers that are used again. It is not
// safe for two callers at a time.
type directional struct {
	block    cipher.Block // Ke
	mac      hash.Hash    // of sealed messages, Ki
	checksum hash.Hash    // of others, Kc
	tag      int          // bytes of either
	cover    bool         // the tag covers the ciphertext (RFC 8009), not the text
	sum      []byte
}

// newDirectional derives the keys for a usage number of RFC 4121 §2.
func newDirectional(key types.EncryptionKey, usage uint32) (*directional, error) {
	if etypes[key.KeyType] == "" {
		return nil, fmt.Errorf("encryption type %d", key.KeyType)
	}
	et, err := crypto.GetEtype(key.KeyType)
	if err != nil {
		return nil, err
	}
	if len(key.KeyValue) != keyBytes(key.KeyType) {
		return nil, fmt.Errorf("a key of %d bytes", len(key.KeyValue))
	}
	derive := func(kind byte) ([]byte, error) { // RFC 3961 §5.3
		return et.DeriveKey(key.KeyValue, append(binary.BigEndian.AppendUint32(nil, usage), kind))
	}
	ke, err1 := derive(0xaa)
	ki, err2 := derive(0x55)
	kc, err3 := derive(0x99)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	b, err := aes.NewCipher(ke)
	if err != nil {
		return nil, err
	}
	d := &directional{
		block: b, mac: hmac.New(et.GetHashFunc(), ki), checksum: hmac.New(et.GetHashFunc(), kc),
		tag: et.GetHMACBitLength() / 8, cover: key.KeyType >= 19,
	}
	d.sum = make([]byte, 0, d.mac.Size())
	return d, nil
}

var zeroIV [block]byte

// seal encrypts a message in place. buf begins with room for the confounder,
// ends with the message, and has room for a tag and a block behind that. It
// returns buf with the tag.
func (d *directional) seal(buf []byte) []byte {
	n := len(buf)
	rand.Read(buf[:block])
	if !d.cover {
		d.mac.Reset()
		d.mac.Write(buf)
		d.sum = d.mac.Sum(d.sum[:0])
	}
	d.encrypt(buf)
	if d.cover {
		d.mac.Reset()
		d.mac.Write(zeroIV[:])
		d.mac.Write(buf[:n])
		d.sum = d.mac.Sum(d.sum[:0])
	}
	return append(buf[:n], d.sum[:d.tag]...)
}

// open decrypts a message in place and returns it without confounder and tag.
func (d *directional) open(sealed []byte) ([]byte, error) {
	n := len(sealed) - d.tag
	if n < block {
		return nil, errIntegrity
	}
	text, tag := sealed[:n], sealed[n:]
	if d.cover {
		d.mac.Reset()
		d.mac.Write(zeroIV[:])
		d.mac.Write(text)
		d.sum = d.mac.Sum(d.sum[:0])
		if subtle.ConstantTimeCompare(d.sum[:d.tag], tag) != 1 {
			return nil, errIntegrity
		}
	}
	d.decrypt(text)
	if !d.cover {
		d.mac.Reset()
		d.mac.Write(text)
		d.sum = d.mac.Sum(d.sum[:0])
		if subtle.ConstantTimeCompare(d.sum[:d.tag], tag) != 1 {
			return nil, errIntegrity
		}
	}
	return text[block:], nil
}

// check is the checksum of a message that is not sealed, in parts. It is good
// until the next call.
func (d *directional) check(parts ...[]byte) []byte {
	d.checksum.Reset()
	for _, p := range parts {
		d.checksum.Write(p)
	}
	d.sum = d.checksum.Sum(d.sum[:0])
	return d.sum[:d.tag]
}

// encrypt is AES in CBC with ciphertext stealing, RFC 3962 §5, in place; buf
// has a block's room behind it.
func (d *directional) encrypt(buf []byte) {
	n := len(buf)
	padded := (n + block - 1) / block * block
	full := buf[:padded]
	clear(full[n:])
	cipher.NewCBCEncrypter(d.block, zeroIV[:]). //nolint:gosec // RFC 3962 §5: the IV is zero, and a confounder comes first
							CryptBlocks(full, full)
	if padded == block {
		return
	}
	// The last two blocks change places, whatever the length.
	var last [block]byte
	copy(last[:], full[padded-block:])
	copy(full[padded-block:], full[padded-2*block:padded-block])
	copy(full[padded-2*block:], last[:])
}

// decrypt is encrypt's inverse.
func (d *directional) decrypt(buf []byte) {
	n := len(buf)
	if n == block {
		d.block.Decrypt(buf, buf)
		return
	}
	tail := n % block
	if tail == 0 {
		tail = block
	}
	head := n - tail - block // whole blocks in front of the last two
	previous := zeroIV
	if head > 0 {
		copy(previous[:], buf[head-block:head])
		cipher.NewCBCDecrypter(d.block, zeroIV[:]).CryptBlocks(buf[:head], buf[:head])
	}
	swapped, rest := buf[head:head+block], buf[head+block:]
	var mixed, stolen [block]byte
	d.block.Decrypt(mixed[:], swapped)
	copy(stolen[:], rest)
	copy(stolen[tail:], mixed[tail:])
	for i := range rest {
		rest[i] ^= mixed[i]
	}
	d.block.Decrypt(swapped, stolen[:])
	subtle.XORBytes(swapped, swapped, previous[:])
}
