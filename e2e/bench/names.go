//go:build linux

package main

import (
	"fmt"
	"net"

	"github.com/miekg/dns"
)

// negativeTTL is how long a cache may hold that a name has no such address.
const negativeTTL = 3600

func hostName(i int) string { return fmt.Sprintf("host%d.example", i) }

// serveNames is a name server that says of each name that it is this machine.
func serveNames() (address string, stop func(), err error) {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	started := make(chan struct{})
	server := &dns.Server{PacketConn: pc, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if len(q.Question) == 1 && q.Question[0].Qtype == dns.TypeA {
			head := dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 3600}
			m.Answer = []dns.RR{&dns.A{Hdr: head, A: net.IPv4(127, 0, 0, 1)}}
		} else { // RFC 2308 §5: without an SOA nobody may remember that there is nothing
			head := dns.RR_Header{Name: "example.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: negativeTTL}
			m.Ns = []dns.RR{&dns.SOA{Hdr: head, Ns: "ns.example.", Mbox: "root.example.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: negativeTTL}}
		}
		_ = w.WriteMsg(m) // who asked asks again
	})}
	failed := make(chan error, 1)
	go func() { failed <- server.ActivateAndServe() }()
	select {
	case <-started:
		return pc.LocalAddr().String(), func() { _ = server.Shutdown(); <-failed }, nil
	case err := <-failed:
		return "", nil, err
	}
}
