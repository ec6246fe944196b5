// Package gsstest is the other side of Kerberos, for tests: a KDC in memory,
// and clients of RFC 1961 at every level.
package gsstest

import (
	"bytes"
	"crypto/rand"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/go-krb5/krb5/crypto"
	"github.com/go-krb5/krb5/keytab"
	"github.com/go-krb5/krb5/messages"
	"github.com/go-krb5/krb5/types"
	xasn1 "github.com/go-krb5/x/encoding/asn1"

	"cleversocks/authsvc/gssapi"
)

// Realm is the one that all of a KDC's principals are in.
const Realm = "TEST.EXAMPLE"

// KDC makes tickets for services.
type KDC struct{ Keys *keytab.Keytab }

// NewKDC makes one with AES keys of services like "rcmd/proxy".
func NewKDC(services ...string) *KDC {
	k := &KDC{Keys: keytab.New()}
	for _, s := range services {
		k.Add(s, 1)
	}
	return k
}

// Add gives a service keys of a new version.
func (k *KDC) Add(service string, kvno uint8) {
	for _, etype := range []int32{17, 18, 19, 20} {
		if err := k.Keys.AddEntry(service, Realm, fmt.Sprint(service, kvno), time.Unix(1e9+int64(kvno), 0), kvno, etype); err != nil {
			panic(err)
		}
	}
}

// Keytab is the file with all keys.
func (k *KDC) Keytab() []byte {
	b, err := k.Keys.Marshal()
	if err != nil {
		panic(err)
	}
	return b
}

// Login says what a client's first token is to be like. Zero values are those
// of a client of good will.
type Login struct {
	Client, Service string // "alice", "rcmd/proxy"
	EType           int32  // 0: 18
	KVNO            int    // 0: 1
	Start, End      time.Time
	Clock           time.Time // the client's
	NoMutual        bool
	CRealm, SRealm  string // the client's and the service's; "": Realm
	// Ballast is how many bytes of authorization data of no known kind the
	// ticket has, as those of users in many groups do.
	Ballast int
	// Ticket and Authenticator change what is sealed, on its way there; nil: no
	// change. They are a KDC and a client with a defect.
	Ticket, Authenticator func([]byte) []byte
}

// Client is a client that has sent its first token.
type Client struct {
	Token   []byte
	key     types.EncryptionKey // the ticket's
	context types.EncryptionKey
	auth    types.Authenticator
	mutual  bool
}

// Login makes a ticket and the client's first token.
func (k *KDC) Login(l Login) (*Client, error) {
	if l.EType == 0 {
		l.EType = 18
	}
	if l.KVNO == 0 {
		l.KVNO = 1
	}
	now := time.Now().UTC()
	if l.Start.IsZero() {
		l.Start = now.Add(-time.Minute)
	}
	if l.End.IsZero() {
		l.End = now.Add(time.Hour)
	}
	if l.Clock.IsZero() {
		l.Clock = now
	}
	if l.CRealm == "" {
		l.CRealm = Realm
	}
	if l.SRealm == "" {
		l.SRealm = Realm
	}
	cname, sname := types.NewPrincipalName(1, l.Client), types.NewPrincipalName(3, l.Service)
	ticket, key, err := newTicket(k.Keys, cname, l, sname)
	if err != nil {
		return nil, err
	}
	c := &Client{key: key, mutual: !l.NoMutual}
	c.auth = types.Authenticator{AVNO: 5, CRealm: l.CRealm, CName: cname, CTime: l.Clock.UTC().Truncate(time.Second), Cusec: l.Clock.Nanosecond() / 1000}
	size := map[int32]int{17: 16, 18: 32, 19: 16, 20: 32}[l.EType]
	if err := c.auth.GenerateSeqNumberAndSubKey(l.EType, size); err != nil {
		return nil, err
	}
	c.context = c.auth.SubKey
	sum := make([]byte, 24)
	sum[0] = 16
	if c.mutual {
		sum[20] = 2
	}
	c.auth.Cksum = types.Checksum{CksumType: 0x8003, Checksum: sum}
	plain, err := c.auth.Marshal()
	if err != nil {
		return nil, err
	}
	if l.Authenticator != nil {
		plain = l.Authenticator(plain)
	}
	sealed, err := crypto.GetEncryptedData(plain, key, 11, 0)
	if err != nil {
		return nil, err
	}
	request := messages.APReq{PVNO: 5, MsgType: 14, APOptions: types.NewKrbFlags(), Ticket: ticket, EncryptedAuthenticator: sealed}
	if c.mutual {
		request.APOptions = xasn1.BitString{Bytes: []byte{0x20, 0, 0, 0}, BitLength: 32}
	}
	raw, err := request.Marshal()
	if err != nil {
		return nil, err
	}
	oid, _ := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 113554, 1, 2, 2})
	c.Token = tlv(0x60, oid, []byte{1, 0}, raw)
	return c, nil
}

// newTicket is messages.NewTicket, whose session key has another size than
// etype 20's.
func newTicket(keys *keytab.Keytab, cname types.PrincipalName, l Login, sname types.PrincipalName) (messages.Ticket, types.EncryptionKey, error) {
	session := types.EncryptionKey{KeyType: l.EType, KeyValue: make([]byte, map[int32]int{17: 16, 18: 32, 19: 16, 20: 32}[l.EType])}
	rand.Read(session.KeyValue)
	part := messages.EncTicketPart{
		Flags: xasn1.BitString{Bytes: make([]byte, 4), BitLength: 32}, Key: session, CRealm: l.CRealm, CName: cname,
		AuthTime: l.Start.UTC().Truncate(time.Second), StartTime: l.Start.UTC().Truncate(time.Second),
		EndTime: l.End.UTC().Truncate(time.Second), RenewTill: l.End.UTC().Truncate(time.Second),
	}
	if l.Ballast > 0 {
		part.AuthorizationData = types.AuthorizationData{{ADType: 1, ADData: tlv(0x30, tlv(0x30, tlv(0xa0, []byte{2, 1, 99}), tlv(0xa1, tlv(4, make([]byte, l.Ballast)))))}}
	}
	b, err := xasn1.Marshal(part, xasn1.WithMarshalSlicePreserveTypes(true), xasn1.WithMarshalSliceAllowStrings(true))
	if err != nil {
		return messages.Ticket{}, session, err
	}
	key, _, err := keys.GetEncryptionKey(sname, Realm, l.KVNO, l.EType)
	if err != nil {
		return messages.Ticket{}, session, err
	}
	plain := tlv(0x63, b)
	if l.Ticket != nil {
		plain = l.Ticket(plain)
	}
	sealed, err := crypto.GetEncryptedData(plain, key, 2, l.KVNO)
	return messages.Ticket{TktVNO: 5, Realm: l.SRealm, SName: sname, EncPart: sealed}, session, err
}

// Finish reads the server's answer, and makes the client's end of the context.
func (c *Client) Finish(reply []byte) (*gssapi.Context, error) {
	sequence := uint64(c.auth.SeqNumber)
	if !c.mutual {
		if len(reply) > 0 {
			return nil, errors.New("an answer that nobody asked for")
		}
		return gssapi.NewContext(c.context, true, sequence, sequence)
	}
	i := bytes.Index(reply, []byte{2, 0, 0x6f})
	if i < 0 {
		return nil, errors.New("no AP-REP")
	}
	var rep messages.APRep
	if err := rep.Unmarshal(reply[i+2:]); err != nil {
		return nil, err
	}
	plain, err := crypto.DecryptEncPart(rep.EncPart, c.key, 12)
	if err != nil {
		return nil, err
	}
	var part messages.EncAPRepPart
	if err := part.Unmarshal(plain); err != nil {
		return nil, err
	}
	if !part.CTime.Equal(c.auth.CTime) || part.Cusec != c.auth.Cusec {
		return nil, errors.New("the AP-REP is for another request")
	}
	return gssapi.NewContext(c.context, true, sequence, uint64(part.SequenceNumber))
}

// Dial logs in to a SOCKS5 server at a level, and returns the connection that
// protects what follows: the request first. At gssapi.LevelNone it is c itself.
func (k *KDC) Dial(c net.Conn, l Login, level gssapi.Level) (net.Conn, *gssapi.Context, error) {
	client, err := k.Login(l)
	if err != nil {
		return nil, nil, err
	}
	if _, err := c.Write([]byte{5, 1, 1}); err != nil {
		return nil, nil, err
	}
	var method [2]byte
	if _, err := io.ReadFull(c, method[:]); err != nil || method != [2]byte{5, 1} {
		return nil, nil, fmt.Errorf("method % x, %w", method, err)
	}
	if _, err := c.Write(gssapi.AppendFrame(nil, gssapi.TokenMessage, client.Token)); err != nil {
		return nil, nil, err
	}
	reply, err := readReply(c)
	if err != nil {
		return nil, nil, err
	}
	context, err := client.Finish(reply)
	if err != nil {
		return nil, nil, err
	}
	if _, err := c.Write(gssapi.AppendFrame(nil, gssapi.LevelMessage, context.Wrap(nil, []byte{byte(level)}, false))); err != nil {
		return nil, nil, err
	}
	answer, err := readReply(c)
	if err != nil {
		return nil, nil, err
	}
	granted, _, err := context.Unwrap(answer)
	if err != nil || len(granted) != 1 {
		return nil, nil, fmt.Errorf("level % x, %w", granted, err)
	}
	if granted[0] == 0 {
		return c, context, nil
	}
	return gssapi.NewConn(c, c, context, gssapi.Level(granted[0])), context, nil
}

// ErrRefused is a server's refusal.
var ErrRefused = errors.New("refused")

// readReply reads a message of the server's, which may be a refusal.
func readReply(c net.Conn) ([]byte, error) {
	var header [4]byte
	if _, err := io.ReadFull(c, header[:2]); err != nil {
		return nil, err
	}
	if header[1] == 0xff {
		return nil, ErrRefused
	}
	if _, err := io.ReadFull(c, header[2:]); err != nil {
		return nil, err
	}
	token := make([]byte, binary.BigEndian.Uint16(header[2:]))
	_, err := io.ReadFull(c, token)
	return token, err
}

func tlv(tag byte, parts ...[]byte) []byte {
	content := bytes.Join(parts, nil)
	if len(content) < 0x80 {
		return append([]byte{tag, byte(len(content))}, content...)
	}
	if len(content) < 0x100 {
		return append([]byte{tag, 0x81, byte(len(content))}, content...)
	}
	return append([]byte{tag, 0x82, byte(len(content) >> 8), byte(len(content))}, content...)
}

// SPNEGO wraps a Kerberos token as browsers do, RFC 4178 §4.2.1.
func SPNEGO(token []byte) []byte {
	spnego, _ := asn1.Marshal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 2})
	var types []byte
	for _, oid := range []asn1.ObjectIdentifier{{1, 2, 840, 48018, 1, 2, 2}, {1, 2, 840, 113554, 1, 2, 2}, {1, 3, 6, 1, 4, 1, 311, 2, 2, 10}} {
		b, _ := asn1.Marshal(oid)
		types = append(types, b...)
	}
	return tlv(0x60, spnego, tlv(0xa0, tlv(0x30, tlv(0xa0, tlv(0x30, types)), tlv(0xa2, tlv(4, token)))))
}
