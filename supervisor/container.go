package supervisor

import (
	"fmt"
	"time"

	"cleversocks/supervisor/config"
)

// dockerWaits is how long "docker stop" and "podman stop" wait for process 1
// before they kill it, if nobody says otherwise.
const dockerWaits = 10 * time.Second

// killedSooner warns process 1 of a container, which would be killed before its
// drain is over: nothing tells it what the grace period is. Kubernetes has one of
// its own, which stands beside these settings.
func killedSooner(cfg *config.Config, pid int, kubernetes string) []string {
	drain := time.Duration(cfg.Drain.Delay) + time.Duration(cfg.Drain.Timeout)
	if pid != 1 || kubernetes != "" || drain <= dockerWaits {
		return nil
	}
	return []string{fmt.Sprintf("drain.timeout: \"docker stop\" kills after %s, and a drain may take %s: start the container with --stop-timeout %.0f, or set drain.timeout below it",
		dockerWaits, drain, (drain + 5*time.Second).Seconds())}
}
