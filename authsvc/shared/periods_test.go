package shared

import (
	"fmt"
	"testing"

	"cleversocks/authsvc"
	"cleversocks/metrics"
)

// The periods of users who are gone are forgotten: where users come and go by the API,
// each that ever was had one for as long as the process lasted.
func TestPeriodsOfUsersWhoAreGone(t *testing.T) {
	s := &Store{options: Options{Quotas: authsvc.NewQuotas(authsvc.StateOptions{Metrics: &metrics.New().Auth})}}
	for n := range 50 * leastPeriods {
		s.periods.learnt(s, fmt.Sprint("gone", n), int64(n+1))
	}
	if n := len(s.periods.users); n > 2*leastPeriods {
		t.Errorf("%d periods of nobody", n)
	}
	s.options.Quotas.Of(&authsvc.Account{Name: "stays"})
	begin := s.periods.learnt(s, "stays", 1000)
	for n := range 50 * leastPeriods {
		s.periods.learnt(s, fmt.Sprint("gone again", n), int64(n+1))
	}
	if told := s.periods.told(s, authsvc.Share{User: "stays", Begin: begin}); told != 1000 {
		t.Errorf("a user who stays began at %d", told)
	}
}
