package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// API is what /api/v1 tells and does. Each function answers for the moment of
// its call. An error that wraps one of those below says what was wrong with the
// question; any other one is a failure of ours.
type API struct {
	// Token is what a client must bring; "" turns the API off.
	Token func() string

	Status func() Status
	// Sessions are all connections of now, those of processes that drain too.
	// CloseSessions closes those that match, on all replicas, and says how many it
	// were here.
	Sessions      func(ctx context.Context) []Session
	CloseSessions func(ctx context.Context, f SessionFilter) int
	// Fleet is the replicas that share their state with this daemon.
	Fleet func(ctx context.Context) Fleet

	// Users are all users. The others find one by its name, raw bytes, and
	// change it in auth.users_file and in force, or neither.
	Users      func(ctx context.Context) []User
	User       func(ctx context.Context, name string) (User, error)
	AddUser    func(ctx context.Context, u NewUser) (UserChanged, error)
	ChangeUser func(ctx context.Context, name string, c UserChange) (UserChanged, error)
	RemoveUser func(ctx context.Context, name string) (UserChanged, error)
	// ImportUsers adds and changes many, all or none. ResetUsage begins a new
	// period of a user's quota.
	ImportUsers func(ctx context.Context, i UserImport) (UsersImported, error)
	ResetUsage  func(ctx context.Context, name string) (User, error)

	// Explain says what a request meets: user, from, to, command, listener.
	Explain func(ctx context.Context, question url.Values) (Explanation, error)

	Whitelist func() []WhitelistEntry
	Admit     func(Admission) (WhitelistEntry, error)
	Revoke    func(address string) (was bool, err error)

	Bans   func() []Ban
	Impose func(source string, length time.Duration) (Ban, error) // 0: as long as may be
	Lift   func(source string) (was bool, err error)

	Upstreams   func() []Upstream
	DrainMember func(upstream string, m MemberDrain) error

	Names      func(name string) []CachedName // "": all
	FlushNames func(name string) int          // "": all

	Config   func(io.Writer) error // as TOML, secrets masked
	Reload   func(ctx context.Context) Reload
	Upgrade  func(ctx context.Context) Upgrade
	Drain    func()
	Level    func() string
	SetLevel func(level string) error
	Denials  func() []Denial // the latest first

	Events *Events
}

// Errors of API's functions, by what they mean to a client.
var (
	ErrInput    = errors.New("bad request")
	ErrNotFound = errors.New("not found")
	ErrConflict = errors.New("conflict")
	ErrBusy     = errors.New("busy")
)

// failure is an error that wraps one of those above without its text.
type failure struct {
	kind error
	text string
}

func (f failure) Error() string { return f.text }
func (f failure) Unwrap() error { return f.kind }

// BadInput is an error that says what is wrong with a question.
func BadInput(text string) error { return failure{ErrInput, text} }

// NotFound is an error for what is not there.
func NotFound(text string) error { return failure{ErrNotFound, text} }

// Conflict is an error for what cannot be done as things stand.
func Conflict(text string) error { return failure{ErrConflict, text} }

// Busy is an error for what may work in a moment.
func Busy(text string) error { return failure{ErrBusy, text} }

// maxBody bounds a request's body, and maxImport one of MaxImport users, in bytes.
const (
	maxBody   = 64 << 10
	maxImport = 8 << 20
)

// call is one request to an operation.
type call struct {
	*http.Request
	query url.Values
}

// body reads the request's JSON. A field that is not known is an error: it
// would have no effect.
func (c call) body(into any) error { return c.bodyUpTo(maxBody, into) }

// bodyUpTo is body for one of up to most bytes.
func (c call) bodyUpTo(most int64, into any) error {
	d := json.NewDecoder(io.LimitReader(c.Body, most))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return BadInput("the body is not the JSON that is expected: " + strings.TrimPrefix(err.Error(), "json: "))
	}
	if d.More() {
		return BadInput("there is more than one JSON value in the body")
	}
	return nil
}

// routes adds the API's operations to a mux, each behind the token.
func (s *Server) routes(mux *http.ServeMux) {
	a := s.options.API
	known := http.NewServeMux()
	for _, op := range operations {
		handler := answering(op, a)
		if op.stream != nil {
			handler = func(w http.ResponseWriter, r *http.Request) { op.stream(a, w, r) }
		}
		mux.Handle(op.method+" "+op.path, s.withToken(handler))
		known.Handle(op.method+" "+op.path, handler)
	}
	mux.Handle("/api/", s.withToken(func(w http.ResponseWriter, r *http.Request) {
		if allowed := methodsOf(known, r); len(allowed) > 0 {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			writeJSON(w, http.StatusMethodNotAllowed, Failure{r.Method + " is no method of this path: " + strings.Join(allowed, ", ") + " are"})
			return
		}
		fail(w, NotFound("there is no such path in the API"))
	}))
}

// methodsOf are those that a path is there with. The mux itself does not tell, as
// it has a handler for all others.
func methodsOf(known *http.ServeMux, r *http.Request) (methods []string) {
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if _, pattern := known.Handler(&http.Request{Method: method, URL: r.URL, Host: r.Host}); pattern != "" {
			methods = append(methods, method)
		}
	}
	return methods
}

// withToken lets nobody in without the token. Without one in the settings
// there is no API, but for the owner on the endpoint's own unix socket.
func (s *Server) withToken(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch err := s.authorized(r); {
		case errors.Is(err, ErrNotFound):
			fail(w, err)
		case err != nil:
			// Not Basic for the page's own questions: a browser would ask.
			w.Header().Set("WWW-Authenticate", `Bearer realm="cleversocks"`)
			writeJSON(w, http.StatusUnauthorized, Failure{err.Error()})
		default:
			h(w, r)
		}
	})
}

var (
	errNoToken = NotFound("there is no API without admin.token_file")
	errToken   = errors.New("the token is missing or wrong")
)

// authorized is nil for who may use the API.
func (s *Server) authorized(r *http.Request) error {
	if isOwner(r) {
		return nil
	}
	want := s.options.API.token()
	if want == "" {
		return errNoToken
	}
	got := ""
	if _, password, ok := r.BasicAuth(); ok { // a browser, for the page
		got = password
	} else if scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		got = rest
	}
	if !sameToken(got, want) {
		return errToken
	}
	return nil
}

func (a API) token() string {
	if a.Token == nil {
		return ""
	}
	return a.Token()
}

// sameToken compares hashes, so that its time tells neither the length nor a
// beginning that is right.
func sameToken(got, want string) bool {
	a, b := sha256.Sum256([]byte(strings.TrimSpace(got))), sha256.Sum256([]byte(strings.TrimSpace(want)))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// answering is the handler of an operation. One whose answer is nil says 204.
func answering(op operation, a API) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		answer, err := op.answer(a, call{r, r.URL.Query()})
		switch answer := answer.(type) {
		case nil:
			if err == nil {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			fail(w, err)
		case plainText:
			text(w, http.StatusOK, string(answer))
		default:
			if err != nil {
				fail(w, err)
				return
			}
			writeJSON(w, http.StatusOK, answer)
		}
	}
}

// plainText is an answer that is not JSON.
type plainText string

func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrInput):
		status = http.StatusBadRequest
	case errors.Is(err, ErrNotFound):
		status = http.StatusNotFound
	case errors.Is(err, ErrConflict):
		status = http.StatusConflict
	case errors.Is(err, ErrBusy):
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, Failure{err.Error()})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	encode := func(v any) ([]byte, error) { return json.MarshalIndent(v, "", "  ") } // people read it with curl
	if _, large := v.(SessionPage); large {
		encode = json.Marshal
	}
	body, err := encode(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"the answer is no JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n')) // the client left: nothing to do
}
