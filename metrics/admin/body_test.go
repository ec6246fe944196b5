package admin

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A body of 3 MB was answered with "400 unexpected EOF", a number for a name with
// "cannot unmarshal number into Go struct field NewUser.name of type string", and
// DELETE of all bans, which does not exist, with a redirect to the ban of nobody. A
// person who knows JSON and HTTP gets told what is wrong.
func TestWrongQuestionsOfTheAPI(t *testing.T) {
	o := Options{API: API{
		Token:         func() string { return "right" },
		Impose:        func(string, time.Duration) (Ban, error) { return Ban{}, nil },
		AddUser:       func(context.Context, NewUser) (UserChanged, error) { return UserChanged{}, nil },
		CloseSessions: func(context.Context, SessionFilter) int { t.Error("sessions were closed"); return 1 },
		FlushNames:    func(string) int { t.Error("names were flushed"); return 1 },
		Lift:          func(string) (bool, error) { t.Error("a ban was lifted"); return true, nil },
	}}
	url, _ := startServer(t, o)
	for _, tt := range []struct {
		method, path, body string
		status             int
		says               string // is in the answer, which is JSON
	}{
		{"POST", "/api/v1/bans", `{"source": "` + strings.Repeat("a", maxBody) + `"}`, 413, "64 KiB"},
		{"POST", "/api/v1/bans", "", 400, "empty"},
		{"POST", "/api/v1/bans", `{"source":`, 400, "ends in the middle"},
		{"POST", "/api/v1/bans", `[]`, 400, "an object is expected, not array"},
		{"POST", "/api/v1/bans", `{"source": 5}`, 400, "source: must be a string, not number"},
		{"POST", "/api/v1/bans", `{"sauce": "192.0.2.1"}`, 400, `unknown field \"sauce\"`},
		{"POST", "/api/v1/bans", `{"source": "192.0.2.1"} {}`, 400, "more than one"},
		{"POST", "/api/v1/bans", `source=192.0.2.1`, 400, "not the JSON"},
		{"POST", "/api/v1/users", `{"name": "a", "disabled": "yes"}`, 400, "disabled: must be true or false, not string"},
		{"POST", "/api/v1/users", `{"name": "a", "max_connections": 1.5}`, 400, "max_connections: must be an integer, not number 1.5"},
		{"POST", "/api/v1/users", `{"name": "a", "quota": {"bytes": []}}`, 400, "quota.bytes: must be a string, not array"},
		{"DELETE", "/api/v1/bans", "", 405, "it has GET, HEAD, POST"},
		{"DELETE", "/api/v1/whitelist", "", 405, "it has GET, HEAD, POST"},
		{"PUT", "/api/v1/bans", "{}", 405, "this path has no PUT"},
		{"GET", "/api/v1/bans/192.0.2.1", "", 405, "it has DELETE"},
		{"GET", "/api/v1/nothing", "", 404, "no such path"},
		{"POST", "/api/v1/bans", `{"source": "192.0.2.1"}`, 200, ""},

		// Conditions that were left out of account closed and flushed more than was meant.
		{"DELETE", "/api/v1/sessions?user=alice&lisener=office", "", 400, `\"lisener\" is not known: there are user, client`},
		{"DELETE", "/api/v1/sessions?client=192.0.2.1&user=", "", 400, "user: is empty"},
		{"DELETE", "/api/v1/dns?nmae=example.com", "", 400, "is not known"},
		{"DELETE", "/api/v1/dns?name=%zz", "", 400, "not well-formed"},
		{"DELETE", "/api/v1/dns?name=", "", 400, "name: is empty"},
		{"GET", "/api/v1/sessions?limit=1&limit=2", "", 400, "more than once"},
		{"GET", "/api/v1/bans?user=alice", "", 400, "takes no parameters"},
		{"GET", "/api/v1/events?type=denied,bannd", "", 400, `there is no event \"bannd\"`},
	} {
		req, err := http.NewRequest(tt.method, url+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer right")
		resp, err := http.DefaultTransport.RoundTrip(req) // follows no redirect
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		name := tt.method + " " + tt.path + " " + tt.body[:min(len(tt.body), 40)]
		if resp.StatusCode != tt.status || !strings.Contains(string(answer), tt.says) || !json.Valid(answer) {
			t.Errorf("%s: %d %s, want %d and %q", name, resp.StatusCode, answer, tt.status, tt.says)
		}
		if allow := resp.Header.Get("Allow"); (allow != "") != (tt.status == 405) {
			t.Errorf("%s: Allow: %q", name, allow)
		}
	}
}
