package config

import "time"

const logDoc = "What is written, how and where. SIGHUP applies a change and reopens the files."

// Log is the [log] section.
type Log struct {
	Level        string   // error, warn, info, debug or trace
	Format       string   // auto, text or json
	Output       string   // "stderr" or a file
	Access       string   // all, denied or off
	AccessOutput string   // a file or a collector; "": Output
	Interim      Duration // between records of a live connection; 0: none
}

func (l *Log) keys() []Key {
	return []Key{
		{
			Name: "level", Value: &l.Level, Default: "info", Flag: "log-level", Arg: "LEVEL",
			Choices: []string{"error", "warn", "info", "debug", "trace"},
			Doc:     "The least severe level that is written. Access records are not subject to it.",
		},
		{
			Name: "format", Value: &l.Format, Default: "auto", Flag: "log-format", Arg: "FORMAT",
			Choices: []string{"auto", "text", "json"},
			Doc:     "How a line looks. `auto` is coloured text on a terminal and `text` elsewhere; `text` is `key=value`; `json` is one object a line.",
		},
		{
			Name: "output", Value: &l.Output, Default: "stderr", Flag: "log-output", Arg: "FILE",
			Doc: "Where the log goes: `stderr`, `stdout` (also `-`) or the path of a file. SIGHUP reopens the file.",
		},
		{
			Name: "access", Value: &l.Access, Default: "all", Flag: "access", Arg: "WHICH",
			Choices: []string{"all", "denied", "off"},
			Doc:     "Which connections leave an access record when they end.",
		},
		{
			Name: "access_output", Value: &l.AccessOutput, Default: "",
			Doc: "Where access records go, if not where the log goes: the path of a file; `syslog:` (the machine's /dev/log), `syslog:udp://host:514` or `syslog:tcp://host:601`; `journald`. See docs/logging.md.",
		},
		{
			Name: "interim", Value: &l.Interim, Default: "0s",
			Doc: "How often a connection that goes on leaves a record in between, 100ms or more. 0s: never.",
		},
	}
}

// LogStdout is the output that means standard output, as "-" does.
const LogStdout = "stdout"

// finishLog knows the words that are no file names. A millisecond between records
// would be a slip that fills the disk.
func (c *Config) finishLog(f *finisher) {
	if i := c.Log.Interim.D(); i > 0 && i < 100*time.Millisecond {
		f.add(c.originOf("log.interim"), "log.interim", "must be 0s (never), or 100ms or more, not %q", c.Log.Interim)
	}
	for key, output := range map[string]*string{"log.output": &c.Log.Output, "log.access_output": &c.Log.AccessOutput} {
		if *output == "-" {
			*output = LogStdout
		}
		if !isCollector(*output) {
			continue
		}
		if key == "log.output" {
			f.add(c.originOf(key), key, "%q is no file name, and takes access records alone (log.access_output): write ./%s for a file of that name", clip(*output), clip(*output))
		} else if _, err := parseCollector(*output); err != nil {
			f.add(c.originOf(key), key, "%q: %v; write ./%s for a file of that name", clip(*output), err, clip(*output))
		}
	}
}
