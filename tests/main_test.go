// Package tests has the promises that need more than one package to be kept.
package tests

import (
	"testing"

	"github.com/proscenium-dev/proscenium/tests/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }
