package config

const sandboxDoc = "What the daemon gives up, for good, once everything is open: what a hole in it could be used for is less then. `check` and the status page tell what is in force. A change needs a restart."

// Sandbox is the [sandbox] section.
type Sandbox struct {
	Landlock  string // auto, on or off
	Seccomp   string // likewise
	CoreDumps bool
}

func (s *Sandbox) keys() []Key {
	modes := []string{"auto", "on", "off"}
	return []Key{
		{
			Name: "landlock", Value: &s.Landlock, Default: "auto", Choices: modes,
			Doc: "Keeps the daemon to the directories of the files that the settings name (a file there may be replaced by a rename) and those of the system that it needs: landlock(7). `auto`: where the kernel has it (5.13); `on`: without it the daemon does not start, and it can start no program but those in its own directory, and is also kept to the TCP ports that it listens on at the start (6.7), besides ports that the kernel chooses. A reload that reaches outside is refused, and says that it needs a restart.",
		},
		{
			Name: "seccomp", Value: &s.Seccomp, Default: "auto", Choices: modes,
			Doc: "Denies system calls that a proxy never makes: to look into other processes, mount, load modules, set the clock, open keyrings and so on; as PID 1, in a container, to start programs too.",
		},
		{
			Name: "core_dumps", Value: &s.CoreDumps, Default: "false",
			Doc: "Leaves core dumps possible, in which passwords and keys would be.",
		},
	}
}
