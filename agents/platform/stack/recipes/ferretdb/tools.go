//go:build tools

// Package ferretdb pins the FerretDB command so that its modules can be vendored.
package ferretdb

import _ "github.com/FerretDB/FerretDB/cmd/ferretdb"
