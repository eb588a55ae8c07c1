// Package wit holds the interface between Proscenium and its actors: the WIT
// package theater:simple, as text. Package canon lifts and lowers its types.
package wit

import "embed"

// Files are the package's .wit files.
//
//go:embed *.wit
var Files embed.FS
