package authsvc

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"time"
)

// LogFailure writes the record of a failed authentication, in the one form
// that dist/fail2ban reads. The user's name is what the client sent: the
// handlers escape it, and it is bounded here. The password is nowhere.
func LogFailure(ctx context.Context, log *slog.Logger, client netip.Addr, user []byte, method Method) {
	user = user[:min(len(user), MaxName)]
	log.WarnContext(ctx, "authentication failed",
		slog.String("client", client.String()), slog.String("user", strings.ToValidUTF8(string(user), "\uFFFD")), slog.String("method", string(method)))
}

// LogBan writes the record of a ban that began.
func LogBan(ctx context.Context, log *slog.Logger, b Ban) {
	log.WarnContext(ctx, "source banned", slog.String("source", b.Source.String()),
		slog.Int("failures", b.Failures), slog.Duration("duration", b.Duration()), slog.Time("until", b.Until.Round(time.Second)))
}
