// Package examples holds configurations to start from. Each is a file that a
// test loads; `cleversocks init` writes some of them. The first line of each tells
// editors where the schema of the settings is.
package examples

import "embed"

// Files are the configurations, by name.
//
//go:embed *.toml
var Files embed.FS
