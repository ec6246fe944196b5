package config

const secretsDoc = "How files that hold secrets are read."

// Secrets is the [secrets] section.
type Secrets struct {
	AllowWorldReadable bool
}

func (s *Secrets) keys() []Key {
	return []Key{
		{
			Name: "allow_world_readable", Value: &s.AllowWorldReadable, Default: "false",
			Doc: "Accepts secret files that every user of the machine may read. Files on a read-only mount, as orchestrators make for secrets, are always accepted.",
		},
	}
}
