package kubernetes

import (
	"bytes"
	"log"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
)

func sorted(list []string) []string { slices.Sort(list); return list }

// The chart and the base are two ways to the same objects.
func TestSameObjects(t *testing.T) {
	if diff := cmp.Diff(plain(t, kustomized(t)), plain(t, templated(t, ""))); diff != "" {
		t.Errorf("(-kustomize +helm)\n%s", diff)
	}
}

// What a helm lint says, of warnings on.
func TestLint(t *testing.T) {
	var said bytes.Buffer
	log.SetOutput(&said)
	defer log.SetOutput(log.Writer())
	for _, m := range lint.AllWithKubeVersion(chart, nil, "default", nil).Messages {
		if m.Severity > support.InfoSev {
			t.Error(m)
		}
	}
	if strings.Contains(said.String(), "warning") {
		t.Error(said.String())
	}
}

// Pods give nothing away, and nobody is refused while they are replaced.
func TestDeployment(t *testing.T) {
	for name, all := range map[string]objects{"kustomize": kustomized(t), "helm": templated(t, "")} {
		d := get[*apps.Deployment](t, all)
		r, pod := d.Spec.Strategy.RollingUpdate, d.Spec.Template.Spec
		if r.MaxUnavailable.IntValue() != 0 || r.MaxSurge.IntValue() != 1 || d.Spec.Replicas != nil {
			t.Errorf("%s: %v, %v replicas, which are the autoscaler's", name, r, d.Spec.Replicas)
		}
		c, s := pod.Containers[0], pod.Containers[0].SecurityContext
		if *pod.AutomountServiceAccountToken || !*pod.SecurityContext.RunAsNonRoot || *pod.SecurityContext.RunAsUser != 65532 ||
			*s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || s.Capabilities.Drop[0] != "ALL" || pod.SecurityContext.SeccompProfile.Type != core.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: %+v, %+v", name, pod.SecurityContext, s)
		}
		if c.ReadinessProbe.HTTPGet.Path != "/readyz" || c.LivenessProbe.HTTPGet.Path != "/healthz" || c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Cpu().IsZero() {
			t.Errorf("%s: %+v", name, c)
		}
		if !cmp.Equal(d.Spec.Selector.MatchLabels, get[*core.Service](t, all).Spec.Selector) ||
			!cmp.Equal(d.Spec.Selector, get[*policy.PodDisruptionBudget](t, all).Spec.Selector) ||
			!cmp.Equal(*d.Spec.Selector, get[*networking.NetworkPolicy](t, all).Spec.PodSelector) {
			t.Errorf("%s: the selectors differ", name)
		}
		for key, value := range d.Spec.Selector.MatchLabels {
			if d.Spec.Template.Labels[key] != value {
				t.Errorf("%s: the pods lack %s=%s", name, key, value)
			}
		}
		if h := get[*autoscaling.HorizontalPodAutoscaler](t, all); h.Spec.ScaleTargetRef.Name != d.Name || h.Spec.Metrics[0].Pods.Metric.Name != "cleversocks_connections_active" {
			t.Errorf("%s: %+v", name, h.Spec)
		}
		if *get[*core.ServiceAccount](t, all).AutomountServiceAccountToken {
			t.Errorf("%s: a token for nothing", name)
		}
	}
}

// A pod that is to end gets the time that its configuration asks for, and that is
// in place of a preStop hook, for which the image has no program.
func TestGracePeriod(t *testing.T) {
	duration := func(text, key string) time.Duration {
		m := regexp.MustCompile(`(?m)^` + key + ` = "(\w+)"`).FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("no %s in %s", key, text)
		}
		d, err := time.ParseDuration(m[1])
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	for name, all := range map[string]objects{
		"kustomize": kustomized(t), "helm": templated(t, ""), "helm, other times": templated(t, "drain: {delay: 30, timeout: 3600}"),
	} {
		toml := get[*core.ConfigMap](t, all).Data["cleversocks.toml"]
		pod := get[*apps.Deployment](t, all).Spec.Template.Spec
		want := duration(toml, "delay") + duration(toml, "timeout") + 15*time.Second
		if got := time.Duration(*pod.TerminationGracePeriodSeconds) * time.Second; got != want || pod.Containers[0].Lifecycle != nil {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// Pods are rolled when what they read changes: charts of other proxies left them
// with the old configuration.
func TestRollsOnChange(t *testing.T) {
	sums := func(values string) map[string]string {
		return get[*apps.Deployment](t, templated(t, values)).Spec.Template.Annotations
	}
	before := sums("")
	for what, values := range map[string]string{
		"checksum/config": "config: |\n  [log]\n  level = \"debug\"\n", "checksum/users": "users: \"alice:x\"",
	} {
		if after := sums(values); after[what] == before[what] {
			t.Errorf("%s stays", what)
		}
	}
	if name := kustomized(t)["ConfigMap"].GetName(); !strings.HasPrefix(name, "cleversocks-") {
		t.Errorf("%s has no hash", name)
	}
}

// Each value does what it says.
func TestValues(t *testing.T) {
	all := templated(t, `
autoscaling: {enabled: false}
replicas: 5
existingSecret: mine
networkPolicy: {enabled: false}
podDisruptionBudget: {enabled: false}
service: {type: LoadBalancer, port: 443, annotations: {a: b}}
image: {repository: registry.example/cleversocks, tag: "1.2.3", pullPolicy: Always}
imagePullSecrets: [{name: pull}]
podAnnotations: {c: d}
podLabels: {e: f}
nodeSelector: {g: h}
tolerations: [{key: i, operator: Exists}]
priorityClassName: high
extraEnv: [{name: GOGC, value: "50"}]
extraVolumes: [{name: tls, secret: {secretName: tls}}]
extraVolumeMounts: [{name: tls, mountPath: /run/tls, readOnly: true}]
maxSessionAge: 0s
listen: "[::]"
`)
	if len(all) != 4 {
		t.Errorf("%d objects", len(all))
	}
	d := get[*apps.Deployment](t, all)
	pod, c := d.Spec.Template.Spec, d.Spec.Template.Spec.Containers[0]
	if *d.Spec.Replicas != 5 || c.Image != "registry.example/cleversocks:1.2.3" || c.ImagePullPolicy != core.PullAlways || pod.ImagePullSecrets[0].Name != "pull" ||
		pod.NodeSelector["g"] != "h" || pod.Tolerations[0].Key != "i" || pod.PriorityClassName != "high" || c.Env[0].Value != "50" ||
		d.Spec.Template.Annotations["c"] != "d" || d.Spec.Template.Labels["e"] != "f" || len(pod.Volumes) != 3 || len(c.VolumeMounts) != 3 || pod.Volumes[1].Secret.SecretName != "mine" {
		t.Errorf("%+v", d.Spec)
	}
	s := get[*core.Service](t, all)
	if s.Spec.Type != core.ServiceTypeLoadBalancer || s.Spec.Ports[0].Port != 443 || s.Annotations["a"] != "b" {
		t.Errorf("%+v", s)
	}
	toml := get[*core.ConfigMap](t, all).Data["cleversocks.toml"]
	if !strings.Contains(toml, `address = "[::]:1080"`) || !strings.Contains(toml, `max_session_age = "0s"`) {
		t.Error(toml)
	}
}

// Kubernetes takes a rule with an empty list of sources for one that lets everybody in.
// Whoever wrote "clients: []" for nobody, or "monitoring: []" in a cluster that has none,
// opened the proxy or its metrics to the whole cluster.
func TestNobodyIsNobody(t *testing.T) {
	for values, want := range map[string]string{
		"":                                "proxy admin",
		"networkPolicy: {clients: []}":    "admin",
		"networkPolicy: {monitoring: []}": "proxy",
		"networkPolicy: {clients: [], monitoring: []}": "",
	} {
		p := get[*networking.NetworkPolicy](t, templated(t, values)).Spec
		var ports []string
		for _, rule := range p.Ingress {
			if len(rule.From) == 0 {
				t.Errorf("%q: a rule for everybody: %+v", values, rule)
			}
			ports = append(ports, rule.Ports[0].Port.String())
		}
		if got := strings.Join(ports, " "); got != want || !slices.Contains(p.PolicyTypes, networking.PolicyTypeIngress) {
			t.Errorf("%q: in to %q, want %q", values, got, want)
		}
	}
}

// A value that was misspelt had no effect, and a time with its unit, as the configuration
// has it, gave pods 125 seconds less than they drain for. Helm refuses both.
func TestWrongValues(t *testing.T) {
	for values, want := range map[string]string{
		"image: {tag: 1.10}":                       "/image/tag", // 1.1 by then
		"drain: {delay: 10s}":                      "/drain/delay",
		"drain: {timeout: 1.5}":                    "/drain/timeout",
		"drain: {timout: 30}":                      "timout",
		"networkPolicy: {client: []}":              "client",
		"maxSessionage: 1h":                        "maxSessionage",
		"maxSessionAge: 3600":                      "maxSessionAge",
		"service: {port: 70000}":                   "/service/port",
		"service: {type: Loadbalancer}":            "/service/type",
		"podDisruptionBudget: {maxUnavailable: x}": "maxUnavailable",
		"users: [alice]":                           "users",
		"replicas: -1":                             "replicas",
	} {
		if _, err := rendered(values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want something about %s", values, err, want)
		}
	}
	for _, values := range []string{"image: {tag: 2}", "podDisruptionBudget: {maxUnavailable: 50%}", "global: {anything: true}", "replicas: 0"} {
		if _, err := rendered(values); err != nil {
			t.Errorf("%s: %v", values, err)
		}
	}
	for _, tag := range []string{"2", "20261129"} { // Helm reads a float, which prints as 2.0261129e+07
		if image := get[*apps.Deployment](t, templated(t, "image: {tag: "+tag+"}")).Spec.Template.Spec.Containers[0].Image; image != "cleversocks:"+tag {
			t.Errorf("the image %s", image)
		}
	}
}
