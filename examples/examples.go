// Package examples holds configurations to start from. Each is a file that a
// test loads; `cleversocks init` writes some of them.
package examples

import "embed"

// Files are the configurations, by name.
//
//go:embed *.toml
var Files embed.FS
