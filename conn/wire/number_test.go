package wire

import "testing"

// TestNumbersAreNoNames: "10.0.0.08" passed as a name, since 08 is no octal
// number, and the system's resolver took it for 10.0.0.8 behind the rules' back.
func TestNumbersAreNoNames(t *testing.T) {
	for host, name := range map[string]bool{
		"10.0.0.08": false, "10.0.0.8.": false, "127.1": false, "2130706433": false, "0x7f000001": false, "0x7f.1": false,
		"1.2.3.0x": false, "017700000001": false, "99999999999999999999999": false, "a.b.00000000000000000000000000": false,
		"example.08": false, "１２７.１": false,
		"08.example": true, "0xg": true, "x0": true, "1e100.net": true, "10.0.0.8.nip.io": true, "0b1": true,
	} {
		addr, err := ParseHost(host, 80)
		if (err == nil && addr.IsName()) != name {
			t.Errorf("%s: %+v, %v", host, addr, err)
		}
	}
}
