package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The alert rules do what their tests say.
func TestAlertRules(t *testing.T) {
	promtool := program(t, "promtool", "prometheus")
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = "../dist/prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// Every query of the dashboard is one that a real Prometheus answers from our
// metrics, with data unless it is about what did not happen.
func TestDashboard(t *testing.T) {
	d := start(t, withAPI(t, apiSettings))
	c, target := connect2(t, d)
	echoes(t, c, "hello")
	c.Close()
	d.record(target)
	prometheus := startPrometheus(t, d.admin)
	text, err := os.ReadFile("../dist/grafana/cleversocks.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	query := func(expr string) (results int) {
		t.Helper()
		resp, err := http.Get(prometheus + "/api/v1/query?query=" + url.QueryEscape(expr))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer struct {
			Error string
			Data  struct{ Result []any }
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Error != "" {
			t.Errorf("%s: %v %s", expr, err, answer.Error)
		}
		return len(answer.Data.Result)
	}
	eventually(t, "two scrapes", func() bool { return query(`count_over_time(cleversocks_build_info[1m]) > 2`) > 0 })
	if len(dashboard.Panels) < 15 {
		t.Errorf("%d panels", len(dashboard.Panels))
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*").Replace(target.Expr)
			// A scrape that a busy machine made too late is a gap until the next one.
			eventually(t, p.Title+": data for "+expr, func() bool { return query(expr) > 0 })
		}
	}
}

// startPrometheus runs a server that scrapes an endpoint every half second.
func startPrometheus(t *testing.T, endpoint string) (url string) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("scrape_configs:\n- job_name: cleversocks\n  scrape_interval: 500ms\n  scrape_timeout: 500ms\n  static_configs: [{targets: ['%s']}]\n", endpoint)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	const address = "127.0.0.1:19090"
	runPeer(t, address, program(t, "prometheus", "prometheus"), "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+address)
	eventually(t, "prometheus is ready", func() bool {
		resp, err := http.Get("http://" + address + "/-/ready")
		if err == nil {
			resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusOK
	})
	return "http://" + address
}
