package gssapi

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-krb5/krb5/crypto"
	"github.com/go-krb5/krb5/messages"
	"github.com/go-krb5/krb5/types"

	"cleversocks/authsvc"
)

// usageAPRep encrypts the acceptor's answer, RFC 4120 §7.5.1.
const usageAPRep = 12

// accepted is a client that has proven who it is.
type accepted struct {
	principal, realm string
	sids             []string
	reply            []byte // the token of the AP-REP; empty when none is wanted
	context          *Context
}

// refuse is a refusal with the sentence for the log.
func refuse(reason authsvc.Reason, format string, args ...any) error {
	return &authsvc.Refusal{Reason: reason, Err: fmt.Errorf(format, args...)}
}

// accept judges the initiator's token for one service, RFC 4120 §3.2.3. The
// library's parsers panic on some malformed messages: the lengths that they
// trust are checked here first, and what is left is recovered from.
func (a *Acceptor) accept(token []byte, service string) (ok *accepted, err error) {
	defer func() {
		if p := recover(); p != nil {
			ok, err = nil, refuse(authsvc.ReasonMalformed, "the message cannot be read: %v", p)
		}
	}()
	if len(token) > maxToken {
		return nil, refuse(authsvc.ReasonMalformed, "%d bytes are too many", len(token))
	}
	raw, err := apReqOf(token)
	switch {
	case errors.Is(err, errMechanism):
		return nil, refuse(authsvc.ReasonMechanism, "%w", err)
	case err != nil:
		return nil, refuse(authsvc.ReasonMalformed, "%w", err)
	}
	var request messages.APReq
	if err := request.Unmarshal(raw); err != nil {
		return nil, refuse(authsvc.ReasonMalformed, "AP-REQ: %w", errMalformed)
	}
	key, err := a.decryptTicket(&request, service)
	if err != nil {
		return nil, err
	}
	ticket := &request.Ticket.DecryptedEncPart
	if err := a.checkAuthenticator(&request); err != nil {
		return nil, err
	}
	sids, err := pacSIDs(ticket.AuthorizationData, key)
	if err != nil {
		return nil, refuse(authsvc.ReasonTicket, "%w", err)
	}
	ok = &accepted{principal: strings.Join(ticket.CName.NameString, "/"), realm: ticket.CRealm, sids: sids}
	return ok, a.establish(ok, &request)
}

// decryptTicket opens the ticket with a key of the service's, and checks its
// times. It returns the key.
func (a *Acceptor) decryptTicket(request *messages.APReq, service string) (types.EncryptionKey, error) {
	none := types.EncryptionKey{}
	ticket := &request.Ticket
	name := ticket.SName.NameString
	if len(name) == 0 || len(request.APOptions.Bytes) < 4 {
		return none, refuse(authsvc.ReasonMalformed, "AP-REQ: %w", errMalformed)
	}
	// Any principal in the keytab has a key: whose it is has to be asked.
	if !strings.EqualFold(name[0], service) {
		return none, refuse(authsvc.ReasonService, "the ticket is for the service %q, and %q is expected", name[0], service)
	}
	etype := ticket.EncPart.EType
	if etypes[etype] == "" {
		return none, refuse(authsvc.ReasonTicket, "the ticket's encryption type %s is not accepted", etypeName(etype))
	}
	keys, known := a.keytab.keysFor(ticket.SName, ticket.Realm, ticket.EncPart.KVNO, etype)
	switch {
	case !known:
		return none, refuse(authsvc.ReasonService, "the keytab has no key of %s@%s", strings.Join(name, "/"), ticket.Realm)
	case len(keys) == 0:
		return none, refuse(authsvc.ReasonKey, "the keytab has no key of %s@%s with version %d and type %s: was it changed?",
			strings.Join(name, "/"), ticket.Realm, ticket.EncPart.KVNO, etypeName(etype))
	}
	var key types.EncryptionKey
	opened := false
	for _, key = range keys {
		if len(ticket.EncPart.Cipher) < 64 {
			break
		}
		if opened = ticket.Decrypt(key) == nil; opened {
			break
		}
	}
	if !opened {
		return none, refuse(authsvc.ReasonTicket, "the ticket does not open with the keytab's key")
	}
	part := &ticket.DecryptedEncPart
	if etypes[part.Key.KeyType] == "" || len(part.Key.KeyValue) != keyBytes(part.Key.KeyType) || len(part.CName.NameString) == 0 {
		return none, refuse(authsvc.ReasonTicket, "the session's encryption type %s is not accepted", etypeName(part.Key.KeyType))
	}
	if err := notAnonymous(part); err != nil {
		return none, err
	}
	return key, a.checkTimes(part)
}

// notAnonymous refuses a ticket behind which nobody is (RFC 8062): a KDC that
// offers these gives one to whoever asks, without a password.
func notAnonymous(part *messages.EncTicketPart) error {
	const (
		flagAnonymous = 16
		wellKnown     = 11 // KRB_NT_WELLKNOWN
	)
	if part.Flags.At(flagAnonymous) != 0 || part.CName.NameType == wellKnown || part.CName.NameString[0] == "WELLKNOWN" {
		return refuse(authsvc.ReasonTicket, "the ticket is anonymous")
	}
	return nil
}

// checkTimes refuses a ticket that is not valid yet, or any more.
func (a *Acceptor) checkTimes(part *messages.EncTicketPart) error {
	now, begin := a.now(), part.StartTime
	if begin.IsZero() {
		begin = part.AuthTime
	}
	const flagInvalid = 7
	switch {
	case begin.After(now.Add(a.skew)), part.Flags.At(flagInvalid) != 0:
		return refuse(authsvc.ReasonClock, "the ticket is valid from %s on", begin.UTC().Format(time.RFC3339))
	case now.After(part.EndTime.Add(a.skew)):
		return refuse(authsvc.ReasonExpired, "the ticket was valid until %s", part.EndTime.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkAuthenticator proves that the client has the ticket's key now, and has
// not sent this message before.
func (a *Acceptor) checkAuthenticator(request *messages.APReq) error {
	ticket := &request.Ticket.DecryptedEncPart
	sealed := request.EncryptedAuthenticator
	if sealed.EType != ticket.Key.KeyType || len(sealed.Cipher) < 48 {
		return refuse(authsvc.ReasonMalformed, "authenticator: %w", errMalformed)
	}
	if err := request.DecryptAuthenticator(ticket.Key); err != nil {
		return refuse(authsvc.ReasonTicket, "the authenticator does not open with the ticket's key")
	}
	given := &request.Authenticator
	if !given.CName.Equal(ticket.CName) || given.CRealm != ticket.CRealm {
		return refuse(authsvc.ReasonTicket, "ticket and authenticator are of different clients")
	}
	at := given.CTime.Add(time.Duration(given.Cusec) * time.Microsecond)
	if off := a.now().Sub(at).Abs(); off > a.skew {
		return refuse(authsvc.ReasonClock, "the clocks differ by %s, and %s are allowed", off.Round(time.Second), a.skew)
	}
	seen := authenticator{
		id: digest(sealed.Cipher, ticket.CRealm, request.Ticket.Realm, slices.Concat(ticket.CName.NameString, request.Ticket.SName.NameString)...),
		at: at, client: digest(nil, ticket.CRealm, "", ticket.CName.NameString...),
	}
	switch a.replays.add(seen, a.skew) {
	case replaySeen:
		return refuse(authsvc.ReasonReplay, "the message has been seen before")
	case replayForgotten:
		return refuse(authsvc.ReasonClock, "clock_skew was raised, and messages as old as this one are forgotten: it is taken a little later")
	case replayFull:
		return &authsvc.Refusal{Reason: authsvc.ReasonUnavailable, Err: errors.New("too many log-ins within the clock skew: the replay cache is full")}
	case replayNew:
	}
	return nil
}

// digest is a name of its own for some bytes that belong to these names: each
// is written with its length, so that no two lists are the same.
func digest(data []byte, realm, of string, names ...string) [sha256.Size]byte {
	h := sha256.New()
	for _, part := range append([]string{realm, of}, names...) {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write([]byte(part))
	}
	h.Write(data)
	return [sha256.Size]byte(h.Sum(nil))
}

// establish makes the context and the answer.
func (a *Acceptor) establish(ok *accepted, request *messages.APReq) error {
	ticket, given := &request.Ticket.DecryptedEncPart, &request.Authenticator
	if given.Cksum.CksumType != 0x8003 {
		return refuse(authsvc.ReasonMalformed, "the authenticator has no GSS checksum")
	}
	flags, err := checksum8003(given.Cksum.Checksum)
	if err != nil {
		return refuse(authsvc.ReasonMalformed, "the authenticator's checksum: %w", err)
	}
	key := ticket.Key
	if len(given.SubKey.KeyValue) > 0 {
		key = given.SubKey
	}
	expects := uint64(uint32(given.SeqNumber))
	// A client that wants no answer cannot be told of another first number.
	sends := expects
	const optionMutual = 2
	if flags&flagMutual != 0 || request.APOptions.At(optionMutual) != 0 {
		var random [4]byte
		rand.Read(random[:])
		sends = uint64(binary.BigEndian.Uint32(random[:]) & 0x3fffffff)
		if ok.reply, err = apRep(ticket.Key, given, uint32(sends)); err != nil {
			return err
		}
	}
	if ok.context, err = NewContext(key, false, sends, expects); err != nil {
		return refuse(authsvc.ReasonTicket, "the subkey: %w", err)
	}
	return nil
}

// apRep is the token of the AP-REP, RFC 4120 §5.5.2: the client's time, to
// prove that its ticket could be opened, and our first sequence number. It is
// encrypted with the ticket's key. A subkey of ours is not sent.
func apRep(key types.EncryptionKey, given *types.Authenticator, sequence uint32) ([]byte, error) {
	part := der(0x7b, der(0x30, // [APPLICATION 27]
		der(0xa0, der(0x18, []byte(given.CTime.UTC().Format("20060102150405Z")))),
		der(0xa1, derUint(uint64(given.Cusec))),
		der(0xa3, derUint(uint64(sequence))),
	))
	sealed, err := crypto.GetEncryptedData(part, key, usageAPRep, 0)
	if err != nil {
		return nil, fmt.Errorf("AP-REP: %w", err)
	}
	reply := der(0x6f, der(0x30, // [APPLICATION 15]
		der(0xa0, derUint(5)),
		der(0xa1, derUint(15)),
		der(0xa2, der(0x30,
			der(0xa0, derUint(uint64(key.KeyType))),
			der(0xa2, der(4, sealed.Cipher)),
		)),
	))
	return frame(oidKerberos, idAPRep, reply), nil
}
