// Command provenance writes the statements that go with a release:
//
//	provenance sbom RAW TIME            the parts list without what differs from build to build
//	provenance statement SUMS VERSION COMMIT GO   an in-toto statement (SLSA provenance v1)
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "provenance:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	switch {
	case len(args) == 3 && args[0] == "sbom":
		return writeSBOM(out, args[1], args[2])
	case len(args) == 5 && args[0] == "statement":
		return writeStatement(out, args[1], args[2], args[3], args[4])
	}
	return errors.New("usage: provenance sbom RAW TIME | provenance statement SUMS VERSION COMMIT GO")
}

// writeSBOM gives a CycloneDX document the commit's time, so that the same
// commit has the same document.
func writeSBOM(out io.Writer, path, at string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var document map[string]any
	if err := json.Unmarshal(raw, &document); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	delete(document, "serialNumber")
	metadata, ok := document["metadata"].(map[string]any)
	if !ok {
		return fmt.Errorf("%s: no metadata", path)
	}
	metadata["timestamp"] = at
	delete(metadata, "tools") // names the machine's copy of the generator by its hash
	return encode(out, document)
}

// subject is one file of the release.
type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// writeStatement says of every file of SHA256SUMS what it was made from and how
// (https://slsa.dev/spec/v1.0/provenance).
func writeStatement(out io.Writer, sums, version, commit, goVersion string) error {
	subjects, err := readSums(sums)
	if err != nil {
		return err
	}
	return encode(out, map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       subjects,
		"predicateType": "https://slsa.dev/provenance/v1",
		"predicate": map[string]any{
			"buildDefinition": map[string]any{
				"buildType":          "https://cleversocks.example/release/v1",
				"externalParameters": map[string]any{"version": version, "command": "task release"},
				"resolvedDependencies": []map[string]any{
					{"uri": "git+cleversocks", "digest": map[string]string{"gitCommit": commit}},
					{"uri": "https://go.dev/dl", "name": goVersion},
				},
			},
			"runDetails": map[string]any{
				"builder": map[string]any{"id": "https://cleversocks.example/scripts/release.sh"},
			},
		},
	})
}

func readSums(path string) ([]subject, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []subject
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		sum, name, ok := strings.Cut(lines.Text(), "  ")
		if !ok || len(sum) != 64 {
			return nil, fmt.Errorf("%s: %q is no line of sha256sum", path, lines.Text())
		}
		out = append(out, subject{Name: name, Digest: map[string]string{"sha256": sum}})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: empty", path)
	}
	return out, lines.Err()
}

func encode(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
