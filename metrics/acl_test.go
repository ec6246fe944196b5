package metrics

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

func TestUserLabelsAreBounded(t *testing.T) {
	m := New()
	for i := range 3 * MaxUserSeries {
		m.Users.Of(fmt.Sprintf("user%d", i)).BytesIn.Inc()
	}
	first := m.Users.Of("user1")
	if first == m.Users.Of("user2") || first != m.Users.Of("user1") {
		t.Error("a user's counts are the user's")
	}
	var out bytes.Buffer
	m.set.WritePrometheus(&out)
	if n := strings.Count(out.String(), `cleversocks_user_bytes_total{direction="in"`); n != MaxUserSeries+1 {
		t.Errorf("%d labels", n)
	}
	if want := fmt.Sprintf(`cleversocks_user_bytes_total{direction="in",user="other"} %d`, 2*MaxUserSeries); !strings.Contains(out.String(), want) {
		t.Errorf("no %s", want)
	}
}

func TestDecisionsGoOnOverAReload(t *testing.T) {
	m := New()
	rules := []string{"default"}
	for i := range 2 * MaxRuleSeries {
		rules = append(rules, fmt.Sprintf("acl.rules[%d]", i))
	}
	m.ACL.Decisions(rules[:2]).Of(ActionDeny, "acl.rules[0]").Inc()
	v := m.ACL.Decisions(rules)
	if n := v.Of(ActionDeny, "acl.rules[0]").Get(); n != 1 {
		t.Errorf("%d after a reload", n)
	}
	if v.Of(ActionDeny, rules[MaxRuleSeries]) != v.Of(ActionDeny, rules[MaxRuleSeries+1]) {
		t.Error("labels without bound")
	}
}
