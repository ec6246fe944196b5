package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// portOf is the port of an address.
func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// startPart runs a redis-server with more settings.
func startPart(t *testing.T, args ...string) *store {
	t.Helper()
	s := startStore(t, false)
	s.args = append(s.args, append(args, "--masterauth", storePassword)...)
	s.start()
	return s
}

// A store of several servers, one of which stops being the master, goes on being
// used, by the clients that were there: behind sentinels, and as a cluster, each of
// whose shards is failed over.
func TestFleetStoreFailsOver(t *testing.T) {
	t.Parallel()
	echo := echoServer(t, "127.0.0.1:0")
	for name, run := range map[string]func(t *testing.T) (url string, failOver func(), now func() *store){
		"sentinel": failingSentinel,
		"cluster":  failingCluster,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, failOver, now := run(t)
			password := writeFile(t, "store.password", storePassword)
			settings := fleetSettings(t, "x", password, "a", fleetUsers, soon)
			file := writeFile(t, "cleversocks.toml", strings.Replace(settings, `url = "redis://x"`, fmt.Sprintf("url = %q", url), 1))
			x := &trouble{t: t, echo: echo, replica: &replica{daemon: startProgram(t, "--config", file, "--log-format", "json"), file: file, name: "a"}}
			x.degraded(false)
			for range 6 {
				x.comes()
			}
			eventually(t, "the store knows them", func() bool { return now().sum("alice") == 6 })
			failOver()
			x.comes()
			eventually(t, "the next master knows them", func() bool { return now().sum("alice") == x.open })
			x.degraded(false)
			for x.open < 10 {
				x.comes()
			}
			whileInTime(t, []*replica{x.replica}, func() string {
				c, reply := tunnel(t, x.replica.daemon, "127.0.0.1", "alice", echo)
				if c != nil {
					c.Close()
				}
				if reply != notAllowed {
					return fmt.Sprintf("an eleventh connection: reply %d", reply)
				}
				return ""
			})
			eventually(t, "the next master knows all", func() bool { return now().sum("alice") == 10 })
		})
	}
}

// failingSentinel is a master with a replica, and a sentinel.
func failingSentinel(t *testing.T) (url string, failOver func(), now func() *store) {
	t.Helper()
	master := startPart(t)
	next := startPart(t, "--replicaof", "127.0.0.1 "+portOf(master.address))
	sentinel := &store{t: t, address: freeAddress(t)}
	file := filepath.Join(t.TempDir(), "sentinel.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, "port %s\nbind 127.0.0.1\nloglevel warning\nsentinel monitor main 127.0.0.1 %s 1\nsentinel auth-pass main \"%s\"\nsentinel down-after-milliseconds main 500\n",
		portOf(sentinel.address), portOf(master.address), storePassword), 0o600); err != nil {
		t.Fatal(err)
	}
	runSentinel(t, file)
	eventually(t, "the sentinel knows the replica", func() bool {
		list, err := sentinel.ask("SENTINEL REPLICAS main")
		return err == nil && slices.Contains(list, portOf(next.address)) && slices.Contains(list, "ok")
	})
	return "redis+sentinel://" + sentinel.address + "/main", master.kill, func() *store {
		if master.cmd != nil {
			return master
		}
		return next
	}
}

// failingCluster is a cluster of two shards, each with a master and a replica.
func failingCluster(t *testing.T) (url string, failOver func(), now func() *store) {
	t.Helper()
	var all []*store
	var ids []string
	for range 4 {
		s := startPart(t, "--cluster-enabled", "yes", "--cluster-port", portOf(freeAddress(t)), "--cluster-node-timeout", "2000")
		id, err := s.ask("CLUSTER MYID")
		if err != nil {
			t.Fatal(err)
		}
		all, ids = append(all, s), append(ids, id[0])
	}
	all[0].must("CLUSTER ADDSLOTSRANGE 0 8191")
	all[1].must("CLUSTER ADDSLOTSRANGE 8192 16383")
	for i, s := range all {
		s.must(fmt.Sprintf("CLUSTER SET-CONFIG-EPOCH %d", i+1))
		nodes, err := s.ask("CLUSTER NODES")
		if err != nil {
			t.Fatal(err)
		}
		_, bus, _ := strings.Cut(strings.Fields(nodes[0])[1], "@")
		all[0].must("CLUSTER MEET 127.0.0.1 " + portOf(s.address) + " " + bus)
	}
	for _, s := range all {
		eventually(t, "all nodes know each other", func() bool {
			info, err := s.ask("CLUSTER INFO")
			return err == nil && strings.Contains(info[0], "cluster_known_nodes:4") && strings.Contains(info[0], "cluster_state:ok")
		})
	}
	for i := range 2 {
		all[2+i].must("CLUSTER REPLICATE " + ids[i])
		eventually(t, "it is a replica", func() bool {
			info, err := all[2+i].ask("INFO replication")
			return err == nil && strings.Contains(info[0], "master_link_status:up")
		})
	}
	slot, err := all[0].ask("CLUSTER KEYSLOT {u:alice}")
	if err != nil {
		t.Fatal(err)
	}
	shard, first := 0, 0
	if _, _ = fmt.Sscan(slot[0], &shard); shard >= 8192 {
		first = 1
	}
	failed := false
	return "redis://" + all[0].address + "," + all[1].address, func() {
			for _, s := range all[2:] {
				eventually(t, "it takes over", func() bool {
					_, _ = s.ask("CLUSTER FAILOVER")
					info, err := s.ask("INFO replication")
					return err == nil && strings.Contains(info[0], "role:master")
				})
			}
			failed = true
		}, func() *store {
			if failed {
				return all[2+first]
			}
			return all[first]
		}
}
