package admin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

// API is what /api/v1 tells and does. Each function answers for the moment of
// its call.
type API struct {
	// Token is what a client must bring; "" turns the API off.
	Token func() string
	// Explain says in words what the rules decide: user, from, to, command.
	Explain func(ctx context.Context, question url.Values) (string, error)
	// Whitelist lists who auth-once lets in, and Revoke takes an address out.
	Whitelist func() any
	Revoke    func(address string) (was bool, err error)
	// Bans lists the sources that are kept out, and Lift ends a ban.
	Bans func() any
	Lift func(source string) (was bool, err error)
}

// routes adds the API to a mux. An address or a range is the rest of a path.
func (a API) routes(mux *http.ServeMux) {
	mux.Handle("GET /api/v1/explain", a.guarded(a.explain))
	mux.Handle("GET /api/v1/whitelist", a.guarded(list(a.Whitelist)))
	mux.Handle("DELETE /api/v1/whitelist/{which...}", a.guarded(remove(a.Revoke)))
	mux.Handle("GET /api/v1/bans", a.guarded(list(a.Bans)))
	mux.Handle("DELETE /api/v1/bans/{which...}", a.guarded(remove(a.Lift)))
	mux.Handle("/api/", a.guarded(http.NotFound))
}

// guarded lets nobody in without the token. Without one in the settings there
// is no API: 404.
func (a API) guarded(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		want := ""
		if a.Token != nil {
			want = a.Token()
		}
		if want == "" {
			text(w, http.StatusNotFound, "there is no API without admin.token_file")
			return
		}
		scheme, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "Bearer") || !sameToken(got, want) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="cleversocks"`)
			text(w, http.StatusUnauthorized, "the token is missing or wrong")
			return
		}
		h(w, r)
	})
}

// sameToken compares hashes, so that its time tells neither the length nor a
// beginning that is right.
func sameToken(got, want string) bool {
	a, b := sha256.Sum256([]byte(strings.TrimSpace(got))), sha256.Sum256([]byte(strings.TrimSpace(want)))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

func (a API) explain(w http.ResponseWriter, r *http.Request) {
	answer, err := a.Explain(r.Context(), r.URL.Query())
	if err != nil {
		text(w, http.StatusBadRequest, err.Error())
		return
	}
	text(w, http.StatusOK, strings.TrimSuffix(answer, "\n"))
}

func list(f func() any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		body, err := json.MarshalIndent(f(), "", "  ")
		if err != nil {
			text(w, http.StatusInternalServerError, err.Error())
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(body, '\n')) // the client left: nothing to do
	}
}

func remove(f func(string) (bool, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch was, err := f(r.PathValue("which")); {
		case err != nil:
			text(w, http.StatusBadRequest, err.Error())
		case !was:
			text(w, http.StatusNotFound, "there is no such entry")
		default:
			w.WriteHeader(http.StatusNoContent)
		}
	}
}
