package resolver

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails when a query, a reader or a service outlives its test.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
