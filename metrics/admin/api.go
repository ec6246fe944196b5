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
	"slices"
	"strconv"
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
	ErrTooLarge = errors.New("too large")
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

// call is one request to an operation.
type call struct {
	*http.Request
	query url.Values
}

// queryOf reads a request's query. What an operation does not know is an error: a
// filter that is misspelt and ignored would close the connections of all, and one
// that is empty, as of a variable that a script did not set, may do so too.
func (op operation) queryOf(r *http.Request) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, BadInput("the query is not well-formed: " + err.Error())
	}
	for name, values := range query {
		switch known := slices.ContainsFunc(op.query, func(p parameter) bool { return p.name == name }); {
		case !known && len(op.query) == 0:
			return nil, BadInput(strconv.Quote(name) + " is not known: this takes no parameters")
		case !known:
			return nil, BadInput(strconv.Quote(name) + " is not known: there are " + names(op.query))
		case len(values) > 1:
			return nil, BadInput(name + ": is given more than once")
		case values[0] == "" && op.method == http.MethodDelete:
			return nil, BadInput(name + ": is empty; leave it out if all are meant")
		}
	}
	return query, nil
}

func names(parameters []parameter) string {
	all := make([]string, 0, len(parameters))
	for _, p := range parameters {
		all = append(all, p.name)
	}
	return strings.Join(all, ", ")
}

// routes adds the API's operations to a mux, each behind the token.
func (s *Server) routes(mux *http.ServeMux) {
	a := s.options.API
	known := http.NewServeMux()
	other := s.withToken(func(w http.ResponseWriter, r *http.Request) { notThere(w, r, known) })
	for _, op := range operations {
		handler := answering(op, a)
		mux.Handle(op.method+" "+op.path, s.withToken(handler))
		known.Handle(op.method+" "+op.path, operationHandler{})
		if whole, _, rest := strings.Cut(op.path, "/{"); rest && strings.HasSuffix(op.path, "...}") {
			mux.Handle(op.method+" "+whole, other) // the mux itself would redirect to whole + "/"
		}
	}
	mux.Handle("/api/", other)
}

// operationHandler stands for an operation where only its being there is asked for.
type operationHandler struct{ http.Handler }

// notThere refuses what no operation is: a path, or a method of one.
func notThere(w http.ResponseWriter, r *http.Request, known *http.ServeMux) {
	allowed := methodsOf(known, r)
	if len(allowed) == 0 {
		fail(w, NotFound("there is no such path in the API"))
		return
	}
	methods := strings.Join(allowed, ", ")
	w.Header().Set("Allow", methods)
	writeJSON(w, http.StatusMethodNotAllowed, Failure{"this path has no " + r.Method + ": it has " + methods})
}

// methodsOf are those that a path is there with. The mux itself does not tell, as
// it has a handler for all others.
func methodsOf(known *http.ServeMux, r *http.Request) (methods []string) {
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		h, _ := known.Handler(&http.Request{Method: method, URL: r.URL, Host: r.Host})
		if _, there := h.(operationHandler); there { // and no redirect
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
		query, err := op.queryOf(r)
		if err != nil {
			fail(w, err)
			return
		}
		if op.stream != nil {
			op.stream(a, w, call{r, query})
			return
		}
		answer, err := op.answer(a, call{r, query})
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
	case errors.Is(err, ErrTooLarge):
		status = http.StatusRequestEntityTooLarge
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
