// Package kubernetes holds dist/kubernetes and dist/helm to what Kubernetes
// takes. It is a module of its own: kustomize and Helm are no dependencies of the
// program.
package kubernetes

import (
	"fmt"
	"strings"
	"testing"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

const (
	base  = "../../dist/kubernetes"
	chart = "../../dist/helm/cleversocks"
)

// object is any of ours.
type object interface{ meta.Object }

// kinds are the objects that there may be.
var kinds = map[string]func() object{
	"apps/v1 Deployment":                     func() object { return new(apps.Deployment) },
	"v1 Service":                             func() object { return new(core.Service) },
	"v1 ServiceAccount":                      func() object { return new(core.ServiceAccount) },
	"v1 ConfigMap":                           func() object { return new(core.ConfigMap) },
	"v1 Secret":                              func() object { return new(core.Secret) },
	"policy/v1 PodDisruptionBudget":          func() object { return new(policy.PodDisruptionBudget) },
	"autoscaling/v2 HorizontalPodAutoscaler": func() object { return new(autoscaling.HorizontalPodAutoscaler) },
	"networking.k8s.io/v1 NetworkPolicy":     func() object { return new(networking.NetworkPolicy) },
}

// objects are those of a rendering, by kind. A field that Kubernetes does not
// know, a misspelt one for example, is an error.
type objects map[string]object

func (all objects) add(t *testing.T, text string) {
	t.Helper()
	var of meta.TypeMeta
	if err := yaml.Unmarshal([]byte(text), &of); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	kind := of.APIVersion + " " + of.Kind
	if kinds[kind] == nil || all[of.Kind] != nil {
		t.Fatalf("%q is not one of ours, or there twice:\n%s", kind, text)
	}
	o := kinds[kind]()
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatalf("%s: %v in\n%s", kind, err, text)
	}
	all[of.Kind] = o
}

func get[T object](t *testing.T, all objects) T {
	t.Helper()
	for _, o := range all {
		if o, is := o.(T); is {
			return o
		}
	}
	var none T
	t.Fatalf("there is no %T", none)
	return none
}

func kustomized(t *testing.T) objects {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), base)
	if err != nil {
		t.Fatal(err)
	}
	all := objects{}
	for _, r := range built.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		all.add(t, string(text))
	}
	return all
}

// rendered are the chart's files with values in YAML, or why Helm refuses these.
func rendered(values string) (map[string]string, error) {
	c, err := loader.Load(chart)
	if err != nil {
		return nil, err
	}
	given, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		return nil, err
	}
	release := chartutil.ReleaseOptions{Name: "cleversocks", Namespace: "default", Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(c, given, release, chartutil.DefaultCapabilities.Copy())
	if err != nil {
		return nil, err
	}
	return engine.Render(c, all)
}

// templated is what `helm template cleversocks` prints with values in YAML.
func templated(t *testing.T, values string) objects {
	t.Helper()
	files, err := rendered(values)
	if err != nil {
		t.Fatal(err)
	}
	found := objects{}
	for name, text := range files {
		if strings.HasSuffix(name, ".txt") {
			continue
		}
		for _, one := range releaseutil.SplitManifests(text) {
			if strings.TrimSpace(one) != "" {
				found.add(t, one)
			}
		}
	}
	return found
}

// plain takes out what only one of the two has: Helm's labels and checksums, and
// the hashes that kustomize puts behind names.
func plain(t *testing.T, all objects) string {
	t.Helper()
	config, users := all["ConfigMap"].GetName(), all["Secret"].GetName()
	var texts []string
	for kind := range kinds {
		kind = kind[strings.IndexByte(kind, ' ')+1:]
		o := all[kind]
		if o == nil {
			t.Fatalf("there is no %s", kind)
		}
		labels := o.GetLabels()
		delete(labels, "helm.sh/chart")
		delete(labels, "app.kubernetes.io/managed-by")
		switch o := o.(type) {
		case *apps.Deployment:
			o.Spec.Template.Annotations = nil
			for i, v := range o.Spec.Template.Spec.Volumes {
				switch volume := &o.Spec.Template.Spec.Volumes[i]; {
				case v.ConfigMap != nil && v.ConfigMap.Name == config:
					volume.ConfigMap.Name = "CONFIG"
				case v.Secret != nil && v.Secret.SecretName == users:
					volume.Secret.SecretName = "USERS"
				}
			}
		case *core.ConfigMap:
			o.Name, o.Data["cleversocks.toml"] = "CONFIG", settings(o.Data["cleversocks.toml"])
		case *core.Secret:
			o.Name, o.Data["users"] = "USERS", nil
		}
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, kind+"\n"+string(text))
	}
	return fmt.Sprint(sorted(texts))
}

// settings is a configuration without comments and empty lines.
func settings(toml string) string {
	var lines []string
	for line := range strings.Lines(toml) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}
