package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"cleversocks/metrics/admin"
	"cleversocks/supervisor"
	"cleversocks/supervisor/config"
)

// newUserImport is `cleversocks user import`.
func newUserImport(ctx context.Context, c *client) *cobra.Command {
	existing := admin.ExistingRefuse
	cmd := command("import [FILE]", "Adds and changes many users at once", `Adds the users in a file, or on standard input, to the users file: all of them or
none. A line is a user as in the users file,

  NAME:PASSWORD
  NAME:HASH
  NAME:HASH:max_connections = 5, quota = { bytes = "10GiB" }

or a JSON object as the API takes it ("name", "password" or "password_hash", and
limits); one JSON list is fine too. Empty lines and those that begin with # are
passed over. Passwords are hashed here; the daemon never gets them.`,
		"  cleversocks user import users.txt\n  ./directory-export | cleversocks user import --existing change", exactly(0, 1, "one file or none"), func(args []string) error {
			users, err := c.readUsers(args)
			if err != nil {
				return err
			}
			if err := hashAll(ctx, users); err != nil {
				return err
			}
			var done admin.UsersImported
			return c.ask(ctx, http.MethodPost, "/api/v1/users/import", admin.UserImport{Users: users, Existing: existing}, &done, func(w io.Writer) {
				row(w, "added", done.Added)
				row(w, "changed", done.Changed)
				row(w, "kept", done.Kept)
				row(w, "connections ended", done.Closed)
			})
		})
	cmd.Flags().StringVar(&existing, "existing", existing, "Those who are there already: refuse all, keep or change them, as `WHAT`.")
	return cmd
}

// maxUsersInput bounds what is read of users.
const maxUsersInput = 16 << 20

// readUsers reads the file that is named, or standard input.
func (c *client) readUsers(args []string) ([]admin.NewUser, error) {
	var in io.Reader = c.app.stdin
	if len(args) == 1 && args[0] != "-" {
		f, err := os.Open(args[0])
		if err != nil {
			return nil, usageError{err.Error()}
		}
		defer func() { _ = f.Close() }() // nothing was written
		in = f
	}
	body, err := io.ReadAll(io.LimitReader(in, maxUsersInput+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxUsersInput {
		return nil, usageError{"the users are larger than 16 MiB"}
	}
	users, err := parseUsers(bytes.TrimPrefix(body, []byte("\ufeff")))
	if err != nil {
		return nil, usageError{err.Error()}
	}
	if len(users) == 0 {
		return nil, usageError{"there is no user in it"}
	}
	return users, nil
}

// parseUsers reads a JSON list, or lines. Errors name the line, and no password.
func parseUsers(body []byte) ([]admin.NewUser, error) {
	if first := bytes.TrimSpace(body); len(first) > 0 && first[0] == '[' {
		var users []admin.NewUser
		return users, strictly(first, &users)
	}
	var users []admin.NewUser
	lines := bufio.NewScanner(bytes.NewReader(body))
	lines.Buffer(nil, maxUsersInput)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSuffix(lines.Text(), "\r")
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		var u admin.NewUser
		var err error
		if strings.HasPrefix(line, "{") {
			err = strictly([]byte(line), &u)
		} else {
			u, err = userOfLine(line)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		users = append(users, u)
	}
	return users, lines.Err()
}

// strictly decodes JSON in which nothing is unknown.
func strictly(body []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if _, isType := errors.AsType[*json.UnmarshalTypeError](err); err == nil || isType || strings.Contains(err.Error(), "unknown field") {
		return err
	}
	return errors.New("this is no JSON of users") // others quote what they met
}

// userOfLine is a user as a line of the users file has one.
func userOfLine(line string) (u admin.NewUser, err error) {
	name, hash, disabled, attributes, ok := supervisor.SplitUserLine(line)
	if !ok {
		return u, errors.New("no colon: NAME:PASSWORD or NAME:HASH is expected")
	}
	u.Name = name
	if supervisor.IsPasswordHash(hash) {
		u.PasswordHash = &hash
	} else {
		u.Password = &hash
	}
	if disabled {
		u.Disabled = &disabled
	}
	if attributes == "" {
		return u, nil
	}
	set, err := config.ParseAttributes(attributes)
	if err == nil {
		err = set.Check()
	}
	if err != nil {
		return u, fmt.Errorf("user %q: what is behind the hash %w", name, err)
	}
	body, err := json.Marshal(set)
	if err != nil {
		return u, err
	}
	return u, strictly(body, &u.UserLimits)
}

// hashAll puts hashes in the place of passwords.
func hashAll(ctx context.Context, users []admin.NewUser) error {
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(runtime.GOMAXPROCS(0))
	for i := range users {
		u := &users[i]
		if u.Password == nil {
			continue
		}
		work.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			hash, err := supervisor.HashOf([]byte(*u.Password))
			if err != nil {
				return usageError{fmt.Sprintf("user %q: %v", u.Name, err)}
			}
			u.Password, u.PasswordHash = nil, &hash
			return nil
		})
	}
	return work.Wait()
}
