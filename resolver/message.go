package resolver

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// ednsSize is the answer size we ask for over UDP: one that needs no
	// fragment on any path (DNS flag day 2020).
	ednsSize = 1232
	// maxChain bounds the CNAMEs followed in one answer.
	maxChain = 16
	// maxAddrs bounds the addresses taken from one answer.
	maxAddrs = 64
	// maxRecords bounds the records looked at in one answer.
	maxRecords = 512
)

// errRefused wraps an answer's code: SERVFAIL, REFUSED and the like.
var errRefused = errors.New("server answered")

// question is what is asked: a normalised name and A or AAAA.
type question struct {
	name  string // without the final dot
	qtype uint16
}

// query is a message that asks a question. mixed says that the letters of its
// name are in random case, which the answer must repeat.
type query struct {
	msg   *dns.Msg
	mixed bool
}

// query makes the message for a question, with a random id.
func (q question) query(h hardening) query {
	m := new(dns.Msg)
	m.Id = randomID()
	m.RecursionDesired = true
	name := dns.Fqdn(q.name)
	if h.mixed {
		name = randomCase(name)
	}
	m.Question = []dns.Question{{Name: name, Qtype: q.qtype, Qclass: dns.ClassINET}}
	if h.edns {
		m.SetEdns0(ednsSize, false)
	}
	return query{msg: m, mixed: h.mixed}
}

func randomID() uint16 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand aborts the program
	return binary.BigEndian.Uint16(b[:])
}

// randomCase flips the case of each letter at random: about one more bit for
// a forger to guess per letter.
func randomCase(name string) string {
	var noise [32]byte // a name has at most 255 bytes, one bit for each
	_, _ = rand.Read(noise[:])
	out := []byte(name)
	for i, c := range out {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if letter && noise[i/8%len(noise)]>>(i%8)&1 == 1 {
			out[i] = c ^ 0x20
		}
	}
	return string(out)
}

// parseReply reads a message and checks that it answers the query: a
// response, with its id, its opcode and exactly its question, letter case
// included when the query's is mixed. The records are checked by readAnswer.
func parseReply(raw []byte, query query) (*dns.Msg, error) {
	m, err := unpack(raw)
	if err != nil {
		return nil, err
	}
	if m.Id != query.msg.Id {
		return nil, errID
	}
	if !m.Response || m.Opcode != dns.OpcodeQuery {
		return nil, fmt.Errorf("%w: no response", errMalformed)
	}
	if len(m.Question) == 0 && m.Rcode == dns.RcodeFormatError {
		return m, nil // a server that does not understand EDNS may leave the question out
	}
	if len(m.Question) != 1 {
		return nil, errQuestion
	}
	got, want := m.Question[0], query.msg.Question[0]
	if got.Qtype != want.Qtype || got.Qclass != want.Qclass || !strings.EqualFold(got.Name, want.Name) {
		return nil, errQuestion
	}
	if query.mixed && got.Name != want.Name {
		return nil, errCase
	}
	return m, nil
}

// unpack parses a message. Its bytes are a stranger's: should the parser ever
// panic over them, that is one more malformed answer and not the daemon's end.
func unpack(raw []byte) (m *dns.Msg, err error) {
	defer func() {
		if p := recover(); p != nil {
			m, err = nil, fmt.Errorf("%w: parser panicked: %v", errMalformed, p)
		}
	}()
	m = new(dns.Msg)
	if err := m.Unpack(raw); err != nil {
		return nil, fmt.Errorf("%w: %w", errMalformed, err)
	}
	return m, nil
}

// answer is what a checked reply says about a question.
type answer struct {
	addrs []netip.Addr // empty: the name has none of this type
	// exists is false when the name itself does not (NXDOMAIN).
	exists bool
	ttl    time.Duration
	// hasTTL is false for a negative answer without an SOA record, which is
	// not to be cached (RFC 2308 §5).
	hasTTL bool
	// weak marks a negative answer whose server stands behind one that could
	// not be heard, and may know better.
	weak bool
	from string // the server's id
}

// readAnswer reads the answer to a question out of a reply. Records of other
// names than the question's and its aliases' are ignored; a reply that has
// answers, but none to the question, is not believed.
func readAnswer(m *dns.Msg, q question) (answer, error) {
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
	default:
		return answer{}, fmt.Errorf("%w %s", errRefused, rcodeName(m.Rcode))
	}
	if len(m.Answer) > maxRecords || len(m.Ns) > maxRecords {
		return answer{}, fmt.Errorf("%w: too many records", errMalformed)
	}
	// Some servers put their OPT record into a section that is not its place;
	// libc, which sends none, gets none back.
	records := slices.DeleteFunc(slices.Clone(m.Answer), func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeOPT })
	final, ttl, err := followAliases(records, dns.Fqdn(q.name))
	if err != nil {
		return answer{}, err
	}
	aliased := !strings.EqualFold(final, dns.Fqdn(q.name))
	a := answer{exists: true}
	for _, rr := range records {
		addr, ok := addrOf(rr, q.qtype)
		if !ok || !strings.EqualFold(rr.Header().Name, final) {
			continue
		}
		ttl = min(ttl, seconds(rr.Header().Ttl))
		if len(a.addrs) < maxAddrs && !slices.Contains(a.addrs, addr) {
			a.addrs = append(a.addrs, addr)
		}
	}
	if len(a.addrs) > 0 {
		a.ttl, a.hasTTL = ttl, true
		return a, nil
	}
	if len(records) > 0 && !aliased && !answersOtherTypes(records, final) {
		return answer{}, errPoisoned
	}
	a.exists = m.Rcode != dns.RcodeNameError
	if negative, ok := negativeTTL(m.Ns, final); ok {
		a.ttl, a.hasTTL = min(ttl, negative), true
	}
	return a, nil
}

// followAliases is the end of the CNAME chain that begins at a name, and the
// least TTL on the way.
func followAliases(records []dns.RR, name string) (final string, ttl time.Duration, err error) {
	ttl = seconds(1<<31 - 1)
	for range maxChain {
		i := slices.IndexFunc(records, func(rr dns.RR) bool {
			_, ok := rr.(*dns.CNAME)
			return ok && rr.Header().Class == dns.ClassINET && strings.EqualFold(rr.Header().Name, name)
		})
		if i < 0 {
			return name, ttl, nil
		}
		alias := records[i].(*dns.CNAME)
		ttl = min(ttl, seconds(alias.Hdr.Ttl))
		name = alias.Target
	}
	return "", 0, fmt.Errorf("%w: alias chain too long", errMalformed)
}

// answersOtherTypes reports whether records of the name are there at all
// (RRSIG and the like, that were not asked for).
func answersOtherTypes(records []dns.RR, name string) bool {
	return slices.ContainsFunc(records, func(rr dns.RR) bool { return strings.EqualFold(rr.Header().Name, name) })
}

// addrOf is the address in an A or AAAA record.
func addrOf(rr dns.RR, qtype uint16) (netip.Addr, bool) {
	if rr.Header().Class != dns.ClassINET || rr.Header().Rrtype != qtype {
		return netip.Addr{}, false
	}
	switch rr := rr.(type) {
	case *dns.A:
		addr, ok := netip.AddrFromSlice(rr.A.To4())
		return addr, ok
	case *dns.AAAA:
		addr, ok := netip.AddrFromSlice(rr.AAAA.To16())
		return addr.Unmap(), ok
	}
	return netip.Addr{}, false
}

// negativeTTL is the life of a negative answer: the lesser of the SOA record's
// own TTL and its minimum field (RFC 2308 §5), from a zone that holds the name.
func negativeTTL(authority []dns.RR, name string) (time.Duration, bool) {
	for _, rr := range authority {
		if soa, ok := rr.(*dns.SOA); ok && dns.IsSubDomain(soa.Hdr.Name, name) {
			return min(seconds(soa.Hdr.Ttl), seconds(soa.Minttl)), true
		}
	}
	return 0, false
}

// seconds is a TTL. One with the top bit set counts as zero (RFC 2181 §8).
func seconds(ttl uint32) time.Duration {
	if ttl > 1<<31-1 {
		return 0
	}
	return time.Duration(ttl) * time.Second
}

func rcodeName(code int) string {
	if name, ok := dns.RcodeToString[code]; ok {
		return name
	}
	return fmt.Sprintf("code %d", code)
}
