package supervisor

import (
	"context"
	"encoding/json"
	"time"

	"github.com/thejerf/suture/v4"

	"cleversocks/aclsvc/ratelimit"
)

// demands is what processes want of users' bandwidths, by user.
type demands map[string]ratelimit.Demand

// take takes what one of them tells anew.
func (d demands) take(list []ratelimit.Demand) {
	for _, one := range list {
		if d[string(one.User)] = one; one.IsZero() {
			delete(d, string(one.User))
		}
	}
}

// add adds what another one wants.
func (d demands) add(other demands) {
	for user, one := range other {
		sum := d[user]
		d[user] = ratelimit.Demand{User: one.User, Up: sum.Up.Add(one.Up), Down: sum.Down.Add(one.Down)}
	}
}

// since is what differs from what was told before, which becomes this.
func (d demands) since(told *demands) []ratelimit.Demand {
	var changed []ratelimit.Demand
	for user, one := range d {
		if before := (*told)[user]; before.Up != one.Up || before.Down != one.Down {
			changed = append(changed, one)
		}
	}
	for user, before := range *told {
		if _, still := d[user]; !still {
			changed = append(changed, ratelimit.Demand{User: before.User})
		}
	}
	*told = d
	return changed
}

// demandNews is what a process tells of them.
type demandNews struct {
	Demands []ratelimit.Demand `json:"demands"`
	Whole   bool               `json:"whole,omitempty"` // all others are none
}

// sharePace is how often processes tell each other what they want.
func sharePace() pace { return pace{least: 50 * time.Millisecond, most: 400 * time.Millisecond} }

// shares is the service that has this process and those that drain keep users'
// bandwidths together.
type shares struct{ of *predecessors }

// String names the service.
func (shares) String() string { return "shares" }

// Serve tells everybody what all others want, until ctx ends, or there are none.
func (s shares) Serve(ctx context.Context) error {
	users := s.of.guards.Users
	var left demands // to others, here
	defer func() { users.Share(demands{}.since(&left)) }()
	every := sharePace()
	for {
		look, all := time.Now(), s.of.list()
		if len(all) == 0 {
			return suture.ErrDoNotRestart
		}
		here := make(demands)
		here.take(users.Demands())
		changed := s.of.others(nil).since(&left)
		users.Share(changed)
		for _, p := range all {
			others := s.of.others(p)
			others.add(here)
			first := p.told == nil // another process may have told it before
			if news := others.since(&p.told); first || len(news) > 0 {
				_ = p.Share(demandNews{news, first}) // one that has ended wants nothing
			}
		}
		if err := every.wait(ctx, len(here) > 0 || len(changed) > 0, time.Since(look)); err != nil {
			return err
		}
	}
}

// others is what predecessors but one want.
func (ps *predecessors) others(but *predecessor) demands {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	sum := make(demands)
	for _, p := range ps.all {
		if p != but {
			sum.add(p.wants)
		}
	}
	return sum
}

// wanted takes what p wants.
func (ps *predecessors) wanted(p *predecessor, raw json.RawMessage) error {
	var news demandNews
	if err := json.Unmarshal(raw, &news); err != nil {
		return err
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	p.wants.take(news.Demands)
	return nil
}

// tellDemands tells the successor what users' connections here want.
func (d *draining) tellDemands(ctx context.Context) error {
	var told demands
	every := sharePace()
	for {
		look, here := time.Now(), make(demands)
		here.take(d.guards.Users.Demands())
		wanted := len(here) > 0
		if news := here.since(&told); len(news) > 0 {
			if err := d.successor.Share(demandNews{Demands: news}); err != nil {
				return err
			}
		}
		if err := every.wait(ctx, wanted, time.Since(look)); err != nil {
			return err
		}
	}
}
