package metrics

// Type is what Prometheus does with the values of a family.
type Type string

// The types of Prometheus.
const (
	CounterType Type = "counter"
	GaugeType   Type = "gauge"
	Histogram   Type = "histogram"
	Summary     Type = "summary"
)

// Family is what there is to say about the series of one name. A name is
// stable: dashboards and alerts depend on it.
type Family struct {
	Name string
	Type Type
	Help string // one sentence, without a full stop inside
}

// Table is every family that the daemon exposes: HELP and TYPE come from here,
// and so does docs/metrics.md.
var Table = []Family{
	{"cleversocks_build_info", GaugeType, "Always 1, with the build in its labels."},
	{"cleversocks_connections_accepted_total", CounterType, "Connections accepted, by listener."},
	{"cleversocks_connections_refused_total", CounterType, "Connections refused before they were served, by reason."},
	{"cleversocks_connections_active", GaugeType, "Connections being served, by protocol."},
	{"cleversocks_proxy_headers_total", CounterType, "PROXY protocol headers of connections that may bring one, by outcome."},
	{"cleversocks_tls_handshakes_total", CounterType, "TLS handshakes with clients, by outcome."},
	{"cleversocks_tls_waiting", GaugeType, "TLS handshakes that wait for their turn at the processor."},
	{"cleversocks_tls_expires_timestamp_seconds", GaugeType, "When a listener's certificate, client_ca or revocation list ends or ended, as seconds since 1970."},
	{"cleversocks_sni_total", CounterType, "Tunnels whose client's first words were looked at for a server's name, by outcome."},
	{"cleversocks_handshakes_total", CounterType, "Handshakes that ended, by protocol and outcome."},
	{"cleversocks_requests_total", CounterType, "Requests answered, by command and reply."},
	{"cleversocks_requests_refused_total", CounterType, "Requests that policy refused, by reason."},
	{"cleversocks_limits_reached_total", CounterType, "How often a bound without a family of its own was met, by bound."},
	{"cleversocks_access_records_dropped_total", CounterType, "Access records that a slow log had no place for."},
	{"cleversocks_panics_total", CounterType, "Panics that were contained, by the part of the program."},

	{"cleversocks_relay_bytes_total", CounterType, "Bytes relayed: in is from the client, out is to the client."},
	{"cleversocks_relay_duration_seconds", Histogram, "How long tunnels lasted."},
	{"cleversocks_relay_end_total", CounterType, "Tunnels that ended, by cause."},
	{"cleversocks_dial_duration_seconds", Histogram, "Time from a request to its connection or failure, name resolution included, by the address family that won and outcome."},
	{"cleversocks_dial_attempts", Histogram, "How many addresses of a family one connection took."},

	{"cleversocks_auth_total", CounterType, "Authentications, by method and outcome."},
	{"cleversocks_auth_refused_total", CounterType, "Log-ins refused, by method and reason."},
	{"cleversocks_auth_hashes_total", CounterType, "Passwords that were hashed to be compared."},
	{"cleversocks_auth_remembered_total", CounterType, "Passwords known from a hash of the last minutes."},
	{"cleversocks_auth_busy_total", CounterType, "Log-ins turned away because too many wait for a hash."},
	{"cleversocks_auth_waiting", GaugeType, "Log-ins that wait for a hash."},
	{"cleversocks_bans_total", CounterType, "Bans for guessed passwords."},
	{"cleversocks_bans_active", GaugeType, "Sources that are banned now."},
	{"cleversocks_throttle_evicted_total", CounterType, "Sources forgotten because the table of failures was full."},
	{"cleversocks_whitelist_size", GaugeType, "Addresses that auth-once lets in."},
	{"cleversocks_whitelist_evicted_total", CounterType, "Addresses that left the auth-once list, by reason."},
	{"cleversocks_quota_exceeded_total", CounterType, "Connections that met their user's quota."},
	{"cleversocks_state_total", CounterType, "Reads and writes of saved state, by file and outcome."},
	{"cleversocks_acl_decisions_total", CounterType, "Decisions of the rules, by action and rule."},

	{"cleversocks_user_bytes_total", CounterType, "Bytes of a user: in is from the client, out is to the client."},
	{"cleversocks_user_connections_total", CounterType, "Requests of a user that were granted a connection."},
	{"cleversocks_user_connections_active", GaugeType, "Connections that a user has."},

	{"cleversocks_dns_lookups_total", CounterType, "Queries to name servers, by transport and outcome."},
	{"cleversocks_dns_cache_total", CounterType, "Look-ups in the cache of names, by outcome."},
	{"cleversocks_dns_answers_dropped_total", CounterType, "Answers of name servers that were not believed, by reason."},
	{"cleversocks_dns_lookup_duration_seconds", Histogram, "Time of look-ups that neither the cache nor the hosts file answered."},

	{"cleversocks_udp_associations_active", GaugeType, "UDP associations."},
	{"cleversocks_udp_associations_refused_total", CounterType, "UDP associations refused, by reason."},
	{"cleversocks_udp_datagrams_total", CounterType, "Datagrams, by direction (in is from the client) and outcome."},
	{"cleversocks_bind_waiting", GaugeType, "BIND requests that wait for their peer."},
	{"cleversocks_bind_peers_total", CounterType, "What came of BIND requests and of peers that connected, by outcome."},

	{"cleversocks_upstream_up", GaugeType, "1 while a member of an upstream is believed to work."},
	{"cleversocks_upstream_active", GaugeType, "Tunnels through a member of an upstream."},
	{"cleversocks_upstream_warm", GaugeType, "Connections to a member that are kept ready."},
	{"cleversocks_upstream_failures_total", CounterType, "Failures of a member itself, not of a destination behind it."},
	{"cleversocks_upstream_handshake_duration_seconds", Histogram, "Time of a member's connection and handshake."},

	{"cleversocks_shared_up", GaugeType, "1 while the shared state answers; 0 also where there is none."},
	{"cleversocks_shared_replicas", GaugeType, "Replicas that share the state, this one included."},
	{"cleversocks_shared_calls_total", CounterType, "Calls to the shared state, by call and outcome."},
	{"cleversocks_shared_call_duration_seconds", Histogram, "Time of calls to the shared state."},
	{"cleversocks_shared_outages_total", CounterType, "Times that the shared state ceased to answer."},
	{"cleversocks_shared_alone_total", CounterType, "Connections that were decided without the shared state, which had not answered in time."},
	{"cleversocks_shared_surplus_total", CounterType, "Connections that were ended since the shared state, which was late, says that they are too many."},
	{"cleversocks_shared_dropped_total", CounterType, "Calls and events for the shared state that were given up."},
	{"cleversocks_shared_events_total", CounterType, "Events of the fleet, by direction and event."},
	{"cleversocks_shared_event_delay_seconds", Histogram, "Time from an event at another replica until it is known here."},

	{"cleversocks_usage_events_total", CounterType, "Events for the usage endpoint, by outcome."},
	{"cleversocks_usage_pushes_total", CounterType, "Attempts to push a batch to the usage endpoint, by outcome."},
	{"cleversocks_usage_spool_bytes", GaugeType, "Bytes that wait for the usage endpoint."},

	{"cleversocks_config_last_reload_success_timestamp_seconds", GaugeType, "When the configuration was last put in force, at the start or by a reload."},
	{"cleversocks_config_last_reload_successful", GaugeType, "1: the last attempt to load the configuration put it in force; 0: it failed, and the one before stays."},
	{"cleversocks_reloads_total", CounterType, "Reloads of the configuration, by outcome."},
	{"cleversocks_upgrades_total", CounterType, "Upgrades, by outcome, over all processes that handed over to this one."},
	{"cleversocks_predecessor_connections", GaugeType, "Connections that processes of before upgrades still have."},
	{"cleversocks_service_restarts_total", CounterType, "Restarts of a service after a failure, by service."},
	{"cleversocks_log_lines_lost_total", CounterType, "Log lines that could not be written."},

	{"process_cpu_seconds_total", CounterType, "CPU time of the process."},
	{"process_cpu_seconds_user_total", CounterType, "CPU time of the process in user space."},
	{"process_cpu_seconds_system_total", CounterType, "CPU time of the process in the kernel, splicing included."},
	{"process_resident_memory_bytes", GaugeType, "Memory of the process that is in RAM."},
	{"process_resident_memory_peak_bytes", GaugeType, "The most memory that the process has had in RAM."},
	{"process_resident_memory_anon_bytes", GaugeType, "Resident memory of no file."},
	{"process_resident_memory_file_bytes", GaugeType, "Resident memory of files, the program's own included."},
	{"process_virtual_memory_bytes", GaugeType, "Address space of the process."},
	{"process_start_time_seconds", GaugeType, "When the process started, in seconds since 1970."},
	{"process_num_threads", GaugeType, "Threads of the process."},
	{"process_open_fds", GaugeType, "Descriptors that the process has open."},
	{"process_max_fds", GaugeType, "Descriptors that the process may have open."},
	{"process_major_pagefaults_total", CounterType, "Page faults that needed the disk."},
	{"process_minor_pagefaults_total", CounterType, "Page faults that did not need the disk."},
	{"process_pressure_cpu_waiting_seconds_total", CounterType, "Time in which a task of the control group waited for a CPU."},
	{"process_pressure_io_waiting_seconds_total", CounterType, "Time in which a task of the control group waited for I/O."},
	{"process_pressure_memory_waiting_seconds_total", CounterType, "Time in which a task of the control group waited for memory."},

	{"go_info", GaugeType, "Always 1, with Go's version in its label."},
	{"go_goroutines", GaugeType, "Goroutines."},
	{"go_threads", GaugeType, "Threads of the Go runtime."},
	{"go_gomaxprocs", GaugeType, "Processors that Go uses at a time."},
	{"go_memlimit_bytes", GaugeType, "Memory limit of the Go runtime."},
	{"go_memstats_alloc_bytes", GaugeType, "Bytes of live objects, and of those not yet swept."},
	{"go_memstats_alloc_bytes_total", CounterType, "Bytes allocated since the start."},
	{"go_memstats_mallocs_total", CounterType, "Objects allocated since the start."},
	{"go_memstats_frees_total", CounterType, "Objects freed since the start."},
	{"go_memstats_heap_inuse_bytes", GaugeType, "Bytes of heap spans in use."},
	{"go_memstats_heap_idle_bytes", GaugeType, "Bytes of heap spans not in use."},
	{"go_memstats_heap_released_bytes", GaugeType, "Bytes of the heap given back to the system."},
	{"go_memstats_heap_objects", GaugeType, "Objects on the heap."},
	{"go_memstats_stack_inuse_bytes", GaugeType, "Bytes of stacks."},
	{"go_memstats_sys_bytes", GaugeType, "Bytes that the Go runtime has from the system."},
	{"go_memstats_next_gc_bytes", GaugeType, "Size of the heap at which the next collection starts."},
	{"go_gc_duration_seconds", Summary, "Pauses of the garbage collector."},
	{"go_gc_cpu_seconds_total", CounterType, "CPU time of the garbage collector, as estimated."},
	{"go_mutex_wait_seconds_total", CounterType, "Time that goroutines waited for mutexes."},
}

// families is Table by name.
var families = byName(Table)

func byName(table []Family) map[string]Family {
	m := make(map[string]Family, len(table))
	for _, f := range table {
		m[f.Name] = f
	}
	return m
}
