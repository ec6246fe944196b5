// Site makes a web site of the project's documentation: every Markdown file of
// docs/ and the project's folder as a page, with the contents of docs/README.md
// at its side and a search that needs no server. What pages link to besides is
// copied.
//
//	go run ./scripts/site OUT
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: site OUT")
		os.Exit(2)
	}
	if err := build(".", os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "site:", err)
		os.Exit(1)
	}
}
