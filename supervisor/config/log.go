package config

import "strings"

const logDoc = "What is written, how and where. SIGHUP applies a change and reopens the files."

// Log is the [log] section.
type Log struct {
	Level        string   // error, warn, info, debug or trace
	Format       string   // auto, text or json
	Output       string   // "stderr" or a file
	Access       string   // all, denied or off
	AccessOutput string   // a file; "": Output
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
			Doc: "A file of its own for access records. Empty: they go where the log goes.",
		},
		{
			Name: "interim", Value: &l.Interim, Default: "0s",
			Doc: "How often a connection that goes on leaves a record in between. 0s: never.",
		},
	}
}

// LogStdout is the output that means standard output, as "-" does.
const LogStdout = "stdout"

// finishLog knows the words that are no file names.
func (c *Config) finishLog(f *finisher) {
	for key, output := range map[string]*string{"log.output": &c.Log.Output, "log.access_output": &c.Log.AccessOutput} {
		word, _, _ := strings.Cut(*output, ":")
		switch word {
		case "-":
			*output = LogStdout
		case "syslog", "journald":
			f.add(c.originOf(key), key, "%q is no file name, and not in this version: write ./%s for a file of that name", clip(*output), clip(*output))
		}
	}
}
