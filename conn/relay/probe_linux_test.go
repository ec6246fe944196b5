package relay

import (
	"io"
	"testing"
	"time"

	"cleversocks/conn/cause"
)

// slowWay books what it is asked in one direction, to be moved after a wait.
func slowWay(way Direction, wait time.Duration, asked chan struct{}) Meter {
	return meterFunc(func(d Direction, _ int) (time.Duration, error) {
		if d != way {
			return 0, nil
		}
		select {
		case asked <- struct{}{}:
		default:
		}
		return wait, nil
	})
}

// TestPausedDownloadSeesItsClientClose: a client that closed while a cap held
// its download up kept its place until the pause was over, as a half-close
// looks the same. The end may come before the pause or in it.
func TestPausedDownloadSeesItsClientClose(t *testing.T) {
	for _, k := range tcpKinds {
		if k.name == "tcp without readiness" {
			continue // its chunk is in hand before the meter is asked
		}
		for _, early := range []bool{true, false} {
			name := k.name + " in the pause"
			if early {
				name = k.name + " before it"
			}
			t.Run(name, func(t *testing.T) {
				asked := make(chan struct{}, 1)
				tun := open(t, k.pair, Options{
					Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors}),
					Meter: slowWay(Out, time.Hour, asked),
				})
				if early {
					shut(tun.client)
					wantEOF(t, tun.server)
				}
				send(t, tun.server, []byte("there is more than one byte"))
				<-asked
				if !early {
					shut(tun.client)
				}
				tun.wantEnd(t, cause.ClientReset)
			})
		}
	}
}

// TestPausedDownloadOfHalfClosedClient: the byte that goes ahead of a pause
// comes once, and in its place.
func TestPausedDownloadOfHalfClosedClient(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			const said = "each byte once"
			asked := make(chan struct{}, 1)
			tun := open(t, k.pair, Options{
				Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors}),
				Meter: slowWay(Out, 50*time.Millisecond, asked),
			})
			send(t, tun.server, []byte(said))
			<-asked
			closeWrite(t, tun.client)
			wantEOF(t, tun.server)
			shut(tun.server)
			if got, err := io.ReadAll(tun.client); string(got) != said || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
			if r := tun.wantEnd(t, cause.ClientClosed); r.Out != int64(len(said)) {
				t.Errorf("%d bytes counted of %d", r.Out, len(said))
			}
		})
	}
}

// TestPausedUploadOfClosedClient: what a client sent before it closed arrives
// whole after the pause, and the tunnel ends with it.
func TestPausedUploadOfClosedClient(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			asked := make(chan struct{}, 1)
			tun := open(t, k.pair, Options{
				Engine: k.engine, Pools: servedPools(PoolOptions{Reactors: k.reactors}),
				Meter: slowWay(In, 50*time.Millisecond, asked),
			})
			send(t, tun.client, []byte("uploaded"))
			<-asked
			shut(tun.client)
			if got, err := io.ReadAll(tun.server); string(got) != "uploaded" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
			shut(tun.server)
			tun.wantEnd(t, cause.ClientClosed)
		})
	}
}
