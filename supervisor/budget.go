package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"

	"cleversocks/conn/relay"
	"cleversocks/supervisor/config"
	"cleversocks/udprelay"
)

// budget is how the descriptor limit is shared out.
type budget struct {
	descriptors uint64
	connections int // at a time
	udp         int // associations among them
	pipes       int // of the relay, each of two descriptors
	dns         int // UDP sockets of the resolver, beyond which queries share them
	races       int // attempts of dials beyond the first of each
}

// fixedDescriptors are for what does not grow with the connections: the
// standard ones, epoll, listeners and their spares, logs, the admin endpoint.
const fixedDescriptors = 64

// divide shares a limit out so that all of it can be in use at once: pipes, a
// reserve for what connections need for a moment only (half of it dials that
// race, a quarter DNS, the rest BIND and DNS over TCP), and the connections, of
// which a quarter may be UDP associations. A tunnel takes two descriptors, an
// association two more, and half as many as there are associations serve
// clients that send from several ports.
func divide(descriptors uint64) budget {
	limit := int(min(descriptors, 1<<30))
	b := budget{descriptors: descriptors, pipes: max(min(limit/16, relay.DefaultPipes), 4)}
	rest := max(limit-fixedDescriptors-2*b.pipes, 0)
	reserve := min(rest/8, 1024)
	rest -= reserve
	b.dns, b.races = max(reserve/4, 4), max(reserve/2, 8)
	b.connections = max(rest*8/21, 16)
	b.udp = b.connections / 4
	return b
}

// descriptorBudget is what this process may use.
func descriptorBudget() budget {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		limit.Cur = 1024
	}
	return divide(limit.Cur)
}

// fewConnections is less than what a proxy for more than one person needs, and
// than the usual 1,024 descriptors come to.
const fewConnections = 256

// connectionLimit is max_connections, or what the descriptor limit carries.
func connectionLimit(ctx context.Context, configured int, log *slog.Logger) int {
	b := descriptorBudget()
	switch {
	case configured == 0:
		if b.connections < fewConnections {
			log.LogAttrs(ctx, slog.LevelWarn, "few descriptors: limits.max_connections is what they carry; raise the limit (ulimit -n, LimitNOFILE=)",
				slog.Int("max_connections", b.connections), slog.Uint64("descriptors", b.descriptors))
		}
		return b.connections
	case configured > b.connections:
		log.LogAttrs(ctx, slog.LevelWarn, "limits.max_connections is more than the descriptor limit carries: raise the limit (ulimit -n, LimitNOFILE=)",
			slog.Int("max_connections", configured), slog.Uint64("descriptors", b.descriptors), slog.Int("carries", b.connections))
	}
	return configured
}

// noteUDP says which numbers of UDP are not those that were asked for.
func noteUDP(ctx context.Context, cfg *config.Config, log *slog.Logger) {
	b := descriptorBudget()
	if !cfg.UDP.Enabled {
		return
	}
	if asked := cfg.UDP.MaxAssociations; asked > b.udp {
		log.LogAttrs(ctx, slog.LevelWarn, "udp.max_associations is more than the descriptor limit carries beside other connections: raise the limit (ulimit -n, LimitNOFILE=)",
			slog.Int("max_associations", asked), slog.Uint64("descriptors", b.descriptors), slog.Int("carries", b.udp))
	}
	if most, err := udpReceiveMost(); err == nil && most < udprelay.ReceiveBuffer {
		log.LogAttrs(ctx, slog.LevelInfo, "sockets of UDP associations hold less of a burst than they ask for: the system's net.core.rmem_max bounds them",
			slog.Int("bytes", most), slog.Int("asked", udprelay.ReceiveBuffer))
	}
}

// udpReceiveMost is the most that a socket's receive buffer may have (socket(7)).
func udpReceiveMost() (int, error) {
	text, err := os.ReadFile("/proc/sys/net/core/rmem_max")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// InForce is what the settings mean that leave it to the machine, by name: for
// this process's limits, which may not be the daemon's.
func InForce(cfg *config.Config) map[string]string {
	b, notes := descriptorBudget(), make(map[string]string)
	if cfg.Limits.MaxConnections == 0 {
		notes["limits.max_connections"] = fmt.Sprintf("%d, with %d descriptors", b.connections, b.descriptors)
	}
	if cfg.UDP.MaxAssociations == 0 {
		notes["udp.max_associations"] = strconv.Itoa(b.udp)
	}
	if cfg.UDP.MaxPerUser == 0 {
		notes["udp.max_associations_per_user"] = strconv.Itoa(associationShare(cfg))
	}
	if k := cfg.Auth.GSSAPI.Keytab; k != nil {
		var entries []string
		for _, e := range k.Entries() {
			entries = append(entries, e.String())
		}
		notes["auth.gssapi.keytab"] = strings.Join(entries, "; ")
	}
	if program, err := os.Executable(); err == nil {
		noteSandbox(cfg, program, notes)
	}
	return notes
}
