package tlsconf

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// What has a date: the values of a label, too.
const (
	datedCertificate = "certificate"
	datedClientCA    = "client_ca"
	datedCRL         = "crl"
)

// dated is something of a door's that is good until a time only. The zero until
// is for ever.
type dated struct {
	what        string
	from, until time.Time
}

// soon is how long before its end something is warned of: a tenth of its time,
// and no more than a week. Whatever renews certificates does so with a third left.
func (d dated) soon() time.Duration { return min(7*24*time.Hour, d.until.Sub(d.from)/10) }

// phase is how far something is on the way to its end.
type phase uint8

const (
	phaseGood phase = iota
	phaseSoon
	phaseOver
)

func (d dated) phase(now time.Time) phase {
	switch {
	case d.until.IsZero() || now.Before(d.until.Add(-d.soon())):
		return phaseGood
	case now.Before(d.until):
		return phaseSoon
	}
	return phaseOver
}

// warning is what an operator should know of it; "": nothing.
func (d dated) warning(now time.Time) string {
	at := d.until.UTC().Format(time.RFC3339)
	switch {
	case d.phase(now) == phaseGood:
		return ""
	case d.phase(now) == phaseSoon:
		return fmt.Sprintf("%s is good until %s: renew it", d.subject(), at)
	case d.what == datedCRL:
		return fmt.Sprintf("%s was good until %s: what was revoked since then is let in", d.subject(), at)
	case d.what == datedClientCA:
		return fmt.Sprintf("%s expired at %s: no client is let in", d.subject(), at)
	}
	return fmt.Sprintf("%s expired at %s: clients refuse it", d.subject(), at)
}

func (d dated) subject() string {
	switch d.what {
	case datedCRL:
		return "the revocation list"
	case datedClientCA:
		return "every certificate in client_ca"
	}
	return "the certificate"
}

// lastOf is the authority that is good for longest: as long as that one is, some
// clients may come.
func lastOf(cas []*x509.Certificate) dated {
	d := dated{what: datedClientCA}
	for _, ca := range cas {
		if ca.NotAfter.After(d.until) {
			d.from, d.until = ca.NotBefore, ca.NotAfter
		}
	}
	return d
}

// date is one of a listener's, as metrics know it.
type date struct{ listener, what string }

// dates are what is in force at the door, with what an ACME server issued.
func (d *Door) dates() []dated {
	all := d.current.Load().dates
	if d.issuer != nil {
		if first, ok := d.issuer.first(); ok {
			all = append(slices.Clip(all), first)
		}
	}
	return all
}

// tell publishes the dates of all doors, and logs what has come to its end since
// the last time. What it was when a door was opened, whoever opened it has said.
func (k *Keeper) tell(ctx context.Context) {
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	published := make(map[date]struct{})
	for door := range k.doors {
		told := make(map[dated]phase)
		for _, d := range door.dates() {
			at := date{door.options.Name, d.what}
			published[at] = struct{}{}
			k.expires(at.listener, at.what, d.until)
			told[d] = d.phase(now)
			if told[d] > door.told[d] {
				k.log.LogAttrs(ctx, slog.LevelWarn, "TLS needs a renewal", slog.String("listener", at.listener), slog.String("warning", d.warning(now)))
			}
		}
		door.told = told
	}
	for at := range k.published {
		if _, still := published[at]; !still {
			k.expires(at.listener, at.what, time.Time{})
		}
	}
	k.published = published
}
