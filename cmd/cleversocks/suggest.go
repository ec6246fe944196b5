package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cleversocks/supervisor/config"
)

// alsoCalled are words that people type for what other programs call so.
var alsoCalled = map[string]string{
	"run": "", "serve": "", "start": "", "daemon": "", "server": "",
	"verify": "check", "validate": "check", "lint": "check", "configtest": "check", "print": "check",
	"stop": "drain", "shutdown": "drain", "quit": "drain",
	"restart": "upgrade",
	"ps":      "sessions", "connections": "sessions", "list": "sessions",
	"ban": "bans", "unban": "bans", "stats": "status", "info": "status", "ping": "healthcheck", "health": "healthcheck",
	"password": "hash", "htpasswd": "hash", "adduser": "user", "useradd": "user",
	"generate": "init", "new": "init", "setup": "init", "loglevel": "log",
}

// unknownCommand is the error of a word that is no command below cmd, with the
// one that may be meant. What was typed is repeated.
func unknownCommand(cmd *cobra.Command, word string) error {
	if len(word) > 200 {
		word = word[:200] + "..."
	}
	text := fmt.Sprintf("unknown argument or command %q", word)
	if !cmd.HasParent() {
		meant, known := alsoCalled[strings.ToLower(word)]
		if known && meant == "" {
			return usageError{text + ": the daemon starts without a command, as in cleversocks --config FILE"}
		}
		if known {
			return usageError{text + "; did you mean " + meant + "?"}
		}
	}
	return usageError{text + config.DidYouMean(word, subcommands(cmd))}
}

// subcommands are the names of the commands below one.
func subcommands(cmd *cobra.Command) []string {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return names
}

// longFlags are the names of a command's flags.
func longFlags(cmd *cobra.Command) []string {
	var names []string
	for _, set := range []*pflag.FlagSet{cmd.Flags(), cmd.InheritedFlags()} {
		set.VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				names = append(names, "--"+f.Name)
			}
		})
	}
	return names
}

// singleDash is the flag among the arguments that was written with one dash
// and needs two, or "". What follows a dash is otherwise a row of letters, as
// in -1q: "-port 1081" is -p with the value "ort". It is asked for when
// something is wrong already, since -Paccess is a password.
func singleDash(cmd *cobra.Command, args []string) string {
	known := longFlags(cmd)
	for _, arg := range args {
		name, isFlag := strings.CutPrefix(arg, "-")
		name, _, _ = strings.Cut(name, "=")
		if !isFlag || len(name) < 3 || strings.HasPrefix(name, "-") {
			continue
		}
		for _, long := range known {
			if long == "--"+name {
				return long
			}
		}
	}
	return ""
}

// flagError words pflag's errors without the argument's text, which could
// hold a password: "-xPsecret".
func flagError(cmd *cobra.Command, err error) error {
	switch e := err.(type) { //nolint:errorlint // pflag wraps none of them
	case *pflag.NotExistError:
		if e.GetSpecifiedShortnames() != "" {
			return usageError{"unknown flag -" + e.GetSpecifiedName()}
		}
		name := "--" + e.GetSpecifiedName()
		if len(name) > 200 {
			name = name[:200] + "..."
		}
		return usageError{"unknown flag " + name + config.DidYouMean(name, longFlags(cmd))}
	case *pflag.ValueRequiredError:
		if e.GetSpecifiedShortnames() != "" {
			return usageError{"flag -" + e.GetSpecifiedName() + " needs a value"}
		}
		return usageError{"flag --" + e.GetSpecifiedName() + " needs a value"}
	case *pflag.InvalidValueError:
		return usageError{fmt.Sprintf("flag --%s does not take this value: it wants %s", e.GetFlag().Name, wanted(e.GetFlag()))}
	}
	return usageError{"the command line can't be read: a flag is misspelt"}
}

// wanted is what a flag takes, in words.
func wanted(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "bool":
		return "true, false, or no value"
	case "int":
		return "a whole number"
	case "duration":
		return "a duration such as 30s or 10m"
	}
	return "a " + f.Value.Type()
}
