package dial

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails when a look-up or an attempt outlives its dial.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
