// Package house holds rules of this repository that the linter cannot: its
// tests read the sources.
package house
