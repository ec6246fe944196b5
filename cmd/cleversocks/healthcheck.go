package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"cleversocks/supervisor/config"
)

// newHealthcheck is `cleversocks healthcheck`, for images without a shell.
func newHealthcheck(ctx context.Context, a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "healthcheck [flags]",
		Short: "Asks a running daemon whether it is healthy, for containers",
		Long: `Asks /healthz of the admin endpoint that the settings name. Give it the same
file, environment or --admin as the daemon. Exit status: 0 healthy, 1 not,
2 configuration or usage.`,
		Example: "  cleversocks healthcheck\n  cleversocks healthcheck --config /etc/cleversocks/cleversocks.toml",
		Args:    noArguments,
	}
	sources := a.addConfigFlags(cmd)
	timeout := cmd.Flags().Duration("timeout", 3*time.Second, "Gives up after this `DURATION`.")
	cmd.RunE = func(*cobra.Command, []string) error {
		endpoint, err := sources().LoadAdmin(ctx)
		if err != nil {
			return err
		}
		asking, cancel := context.WithTimeout(ctx, *timeout)
		defer cancel()
		return checkHealth(asking, endpoint.Address)
	}
	return cmd
}

// checkHealth is nil when the admin endpoint at addr says that all is well.
func checkHealth(ctx context.Context, addr config.AdminAddress) error {
	base, client, err := adminAt(addr)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/healthz", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("unhealthy: %w", unreachable(addr.String(), err))
	}
	if err := resp.Body.Close(); err != nil {
		return fmt.Errorf("unhealthy: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("unhealthy: %s answers %s", addr, resp.Status)
	}
	return nil
}

// adminAt is how a client on this machine asks the admin endpoint.
func adminAt(addr config.AdminAddress) (base string, _ *http.Client, _ error) {
	client := adminClient()
	if addr.Systemd != "" {
		return "", nil, fmt.Errorf("admin.address is %s, which systemd alone knows: give --admin ADDR:PORT, or unix:PATH", addr)
	}
	if addr.Socket != "" {
		client.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", addr.Socket)
		}}
		return "http://localhost", client, nil
	}
	to, err := reachable(addr.AddrPort)
	return "http://" + to.String(), client, err
}

// reachable is the admin endpoint's address as a client on this machine dials
// it.
func reachable(addr netip.AddrPort) (netip.AddrPort, error) {
	if !addr.IsValid() {
		return addr, errors.New("admin.address is empty: there is nothing to ask")
	}
	if addr.Port() == 0 {
		return addr, errors.New("admin.address has port 0: the port in use is unknown")
	}
	if addr.Addr().IsUnspecified() {
		loopback := netip.IPv6Loopback()
		if addr.Addr().Is4() {
			loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		addr = netip.AddrPortFrom(loopback, addr.Port())
	}
	return addr, nil
}

// adminClient has a transport of its own: no proxy of the environment, no
// redirects.
func adminClient() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
