package authsvc

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"cleversocks/conn/netaddr"
)

// LogFailure writes the record of a failed authentication, in the one form
// that dist/fail2ban reads. The user's name is what the client sent: the
// handlers escape it, and it is bounded here. The password is nowhere.
// That the server was too busy to look (ReasonBusy) is a failure too: who
// guesses fast enough to make it so must not be overlooked.
func LogFailure(ctx context.Context, log *slog.Logger, client netip.Addr, user []byte, method Method, why Reason) {
	user = user[:min(len(user), MaxName)]
	log.WarnContext(ctx, "authentication failed",
		slog.String("client", sourceName(client)), slog.String("user", strings.ToValidUTF8(string(user), "\uFFFD")), slog.String("method", string(method)), slog.String("reason", string(why)))
}

// sourceName is a client's address as the log has it, or the local user at a unix
// socket.
func sourceName(client netip.Addr) string {
	switch {
	case !client.IsValid():
		return "unix"
	case netaddr.IsLocalUser(client):
		return netaddr.SourceText(netaddr.SourcePrefix(client))
	}
	return client.String()
}

// LogBan writes the record of a ban that began.
func LogBan(ctx context.Context, log *slog.Logger, b Ban) {
	log.WarnContext(ctx, "source banned", slog.String("source", netaddr.SourceText(b.Source)),
		slog.Int("failures", b.Failures), slog.Duration("duration", b.Duration()), slog.Time("until", b.Until.Round(time.Second)))
}
