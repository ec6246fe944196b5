//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"slices"
)

// The figures of a long benchmark that is run in pieces, each of some rounds or
// some measurements, are kept in a file between them: by proxy, by figure, in
// the order of the rounds.

// read adds the figures of a file, if there is one.
func (r *results) read(path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var kept map[string]map[string][]float64
	if err := json.Unmarshal(b, &kept); err != nil {
		return err
	}
	for proxy, figures := range kept {
		for name, numbers := range figures {
			for _, n := range numbers {
				r.add(proxy, []value{{name, n}})
			}
		}
	}
	return nil
}

// write is the other half of read.
func (r *results) write(path string) error {
	kept := make(map[string]map[string][]float64)
	for key, numbers := range r.all {
		if kept[key[0]] == nil {
			kept[key[0]] = make(map[string][]float64)
		}
		kept[key[0]][key[1]] = numbers
	}
	b, err := json.MarshalIndent(kept, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// measured are the measurements that there are figures of.
func (r *results) measured() []measurement {
	return slices.DeleteFunc(measurements(), func(m measurement) bool {
		for key := range r.all {
			if slices.Contains(m.figures, key[1]) {
				return false
			}
		}
		return true
	})
}

// rounds is how often the figure was measured that was measured most often.
func (r *results) rounds() int {
	most := 0
	for _, numbers := range r.all {
		most = max(most, len(numbers))
	}
	return most
}
