package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	gotoml "github.com/pelletier/go-toml/v2"

	"cleversocks/conn/textfile"
	"cleversocks/conn/wire"
)

// RuleCases is a file of expected decisions, for `cleversocks test rules`.
type RuleCases struct {
	// Names are the addresses of names that are not to be resolved.
	Names map[string][]netip.Addr
	Cases []RuleCase
}

// RuleCase is one [[case]].
type RuleCase struct {
	Title    string `toml:"title"`
	User     string `toml:"user"`
	From     string `toml:"from"` // "": 127.0.0.1
	To       string `toml:"to"`
	Listener string `toml:"listener"`
	Command  string `toml:"command"` // "": connect
	Expect   string `toml:"expect"`  // allow or deny
	Rule     string `toml:"rule"`    // what decides, or its "file:line"; "": whatever does
	Where    string `toml:"-"`       // "file:line" of the case
}

// ReadRuleCases reads and checks a file of expected decisions. Its errors wrap
// ErrInvalid and name the line.
func ReadRuleCases(path string) (*RuleCases, error) {
	text, _, err := readBounded(path, maxFile)
	if err == nil {
		text, err = textfile.Trim(text)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, path, err)
	}
	var doc struct {
		Names map[string][]netip.Addr `toml:"names"`
		Case  []RuleCase              `toml:"case"`
	}
	decoder := gotoml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := decoder.Decode(&doc); err != nil {
		return nil, fmt.Errorf("%w: %s", ErrInvalid, strings.Join(tomlErrors(path, err), "\n"))
	}
	file := &RuleCases{Names: make(map[string][]netip.Addr), Cases: doc.Case}
	for name, addrs := range doc.Names {
		normal, err := wire.NormalizeName(name)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: names.%s: %w", ErrInvalid, path, name, err)
		}
		file.Names[normal] = addrs
	}
	if len(file.Cases) == 0 {
		return nil, fmt.Errorf("%w: %s: there is no [[case]] in it, and so nothing to test", ErrInvalid, path)
	}
	at := positions(text)
	for i := range file.Cases {
		c := &file.Cases[i]
		c.Where = fmt.Sprintf("%s:%d", path, at[element("case", i)].Line)
		switch {
		case c.To == "":
			err = errors.New("to is missing")
		case c.Expect != "allow" && c.Expect != "deny":
			err = fmt.Errorf(`expect must be "allow" or "deny", not %q`, clip(c.Expect))
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, c.Where, err)
		}
	}
	return file, nil
}

// tomlErrors are what is wrong with a document, a line each with its place.
func tomlErrors(path string, err error) (lines []string) {
	if missing, ok := errors.AsType[*gotoml.StrictMissingError](err); ok {
		for _, e := range missing.Errors {
			line, column := e.Position()
			lines = append(lines, fmt.Sprintf("%s:%d:%d: %s: unknown key", path, line, column, strings.Join(e.Key(), ".")))
		}
		return lines
	}
	return []string{syntaxOrigin(path, err).where + ": " + strings.TrimPrefix(err.Error(), "toml: ")}
}
