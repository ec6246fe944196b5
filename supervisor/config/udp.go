package config

const udpDoc = "UDP ASSOCIATE of SOCKS5. A firewall has to let `udp.ports` in, a container has to publish them, and behind NAT `listener.advertise` has to be set: see [protocols.md](protocols.md). A reload changes associations that start from then on."

// UDP is the [udp] section.
type UDP struct {
	Enabled         bool
	Ports           OwnPorts
	IdleTimeout     Duration
	Filter          string // none, address or endpoint
	ClientPorts     string // any or first
	MaxAssociations int    // 0: by the descriptor limit
	MaxPerUser      int    // 0: by MaxAssociations
}

func (u *UDP) keys() []Key {
	return []Key{
		{
			Name: "enabled", Value: &u.Enabled, Default: "true",
			Doc: "Whether clients may have datagrams relayed.",
		},
		{
			Name: "ports", Value: &u.Ports, Default: "",
			Doc: "The ports that clients send their datagrams to, such as `40000-40999`: one for each association. Empty: any that the system chooses.",
		},
		{
			Name: "idle_timeout", Value: &u.IdleTimeout, Default: "2m", Min: "100ms",
			Doc: "How long a client's port keeps its sockets towards destinations without a datagram in either direction. Then they are closed, and opened again by the next datagram, at the same port if that is still free. The association itself goes on: it ends with its control connection.",
		},
		{
			Name: "filter", Value: &u.Filter, Default: "address", Choices: []string{"none", "address", "endpoint"},
			Doc: "Whose datagrams come back to the client: `endpoint` those from a host and port that it has sent to, `address` those from any port of such a host, `none` anybody's that the rules allow.",
		},
		{
			Name: "client_ports", Value: &u.ClientPorts, Default: "any", Choices: []string{"any", "first"},
			Doc: "Which ports of the client's address an association serves: `any`, each with sockets and answers of its own, as games and calls need it, or only the `first` that sends. With `first`, other programs at the client's address cannot use the association; another port takes over when the first has been silent for 30 seconds.",
		},
		{
			Name: "max_associations", Value: &u.MaxAssociations, Default: "0", Min: "0", Max: "10000000",
			Doc: "How many associations there are at a time. 0: a quarter of the connections that the descriptor limit carries, since each takes up to four descriptors. Ports of a client beyond its first take two more each, of half as many in all.",
		},
		{
			Name: "max_associations_per_user", Value: &u.MaxPerUser, Default: "0", Min: "0", Max: "10000000",
			Doc: "How many of them one user has at a time; clients without a name count by address, IPv6 by /64. 0: a quarter of `udp.max_associations`, at least 8.",
		},
	}
}

const bindDoc = "BIND of SOCKS5 and SOCKS4: the server connects to the client, as in FTP's active mode. Ports and addresses matter as they do for UDP. A reload changes what is asked for from then on."

// Bind is the [bind] section.
type Bind struct {
	Enabled       bool
	Ports         OwnPorts
	AcceptTimeout Duration
	AnyPeer       bool
	MaxPerUser    int // 0: no bound
}

func (b *Bind) keys() []Key {
	return []Key{
		{
			Name: "enabled", Value: &b.Enabled, Default: "true",
			Doc: "Whether clients may wait for a connection.",
		},
		{
			Name: "ports", Value: &b.Ports, Default: "",
			Doc: "The ports that are opened, such as `41000-41099`: one for each client that waits. Empty: any that the system chooses.",
		},
		{
			Name: "accept_timeout", Value: &b.AcceptTimeout, Default: "2m", Min: "100ms",
			Doc: "How long a client waits for its peer.",
		},
		{
			Name: "any_peer", Value: &b.AnyPeer, Default: "false",
			Doc: "Accepts whoever connects and the rules allow. Otherwise only the host that the client has named may; a client that named none takes anyone.",
		},
		{
			Name: "max_per_user", Value: &b.MaxPerUser, Default: "16", Min: "0", Max: "10000000",
			Doc: "How many ports one user has open at a time; clients without a name count by address, IPv6 by /64. 0: no bound.",
		},
	}
}
