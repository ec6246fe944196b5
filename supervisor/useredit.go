package supervisor

import (
	"bytes"
	"context"
	"errors"
	"log/slog"

	"cleversocks/authsvc"
	"cleversocks/conn"
)

// userEdit is a change of the users file while the daemon runs.
type userEdit struct {
	// change returns the file's content with the change made. It may be called
	// more than once, each time with what the file holds then.
	change func(content []byte) ([]byte, error)
	asked  string // what it is about, for the log
	// removes is the user who is taken out; "": none.
	removes string
	// ended gets how many sessions ended with it.
	ended int
}

// people is what an edit of the users touches: nothing but accounts.
type people struct {
	accounts *accounts
	guards   *guards
	group    *conn.Group
	inForce  part // of who lists users, or waits for their time
	lapses   *lapses
}

// parts are what an edit installs, in the order of the reloader's.
func (p *people) parts(r *reloader, e *userEdit) []part {
	file := &editedFile{edit: e, of: p.accounts, reloader: r}
	before := p.accounts.users
	return []part{
		partFunc(file.open),
		p.accounts,
		partFunc(func(_ context.Context, d *draft) (change, error) { return nil, d.cfg.CheckSubjects(d.users) }),
		partFunc(file.write), // the last one that may fail
		onCommit(func(_ context.Context, next *draft) { p.guards.setUsers(next.users) }),
		onCommit(func(_ context.Context, next *draft) { p.group.SetPolicy(next.policy) }),
		p.inForce,
		onCommit(func(ctx context.Context, _ *draft) {
			if e.removes != "" {
				before.Remove(e.removes)
			}
			e.ended = p.group.EndLapsed()
			revoke(ctx, p.group, r.log)
			p.lapses.reconsider()
		}),
	}
}

// editTries is how often an edit begins anew because somebody else writes the
// file.
const editTries = 5

var errNoUsersFile = errors.New("auth.users_file is not set: there is no file to write users to")

// editUsers changes the users file and puts the change in force, or neither.
// Edits wait for each other, and for a reload.
func (r *reloader) editUsers(ctx context.Context, e *userEdit) error {
	return r.do(ctx, func(ctx context.Context) error {
		if r.installed.Auth.UsersFile == "" {
			return errNoUsersFile
		}
		for try := 1; ; try++ {
			r.policies++
			policy := *r.people.group.Policy()
			policy.Generation = r.policies
			d := &draft{cfg: r.installed, old: r.installed, policy: &policy}
			err := install(ctx, r.people.parts(r, e), d, r.panics)
			if errors.Is(err, authsvc.ErrChangedMeanwhile) && try < editTries {
				continue
			}
			if err == nil {
				r.generated = policy.Generation
				e.ended += r.upgrader.predecessors.follow(ctx)
			}
			return err
		}
	})
}

// editedFile is the users file on its way to be another.
type editedFile struct {
	edit     *userEdit
	of       *accounts
	reloader *reloader
	document *authsvc.UsersDocument
}

// open reads the file as it is now, edited by hand or not, and makes the
// change. The file stays locked against other editors until the edit is over.
func (f *editedFile) open(ctx context.Context, d *draft) (change, error) {
	document, err := await(ctx, f.reloader.panics, "users", func() (*authsvc.UsersDocument, error) {
		return authsvc.OpenUsersDocument(d.cfg.Auth.UsersFile)
	})
	if err != nil {
		return nil, err
	}
	f.document = document
	if len(bytes.TrimSpace(document.Content)) == 0 && f.of.inFile > 0 {
		return f, errEmptied
	}
	edited, err := f.edit.change(document.Content)
	d.removes = f.edit.removes
	d.edited = append([]byte{}, edited...) // not nil, even if it is empty
	return f, err
}

// write puts the file in place, now that its content is known to be good.
func (f *editedFile) write(ctx context.Context, d *draft) (change, error) {
	_, err := await(ctx, f.reloader.panics, "users", func() (struct{}, error) {
		return struct{}{}, f.document.Replace(d.edited)
	})
	return nil, err
}

// Commit lets others edit.
func (f *editedFile) Commit(ctx context.Context) { f.Rollback(ctx) }

// Rollback lets others edit.
func (f *editedFile) Rollback(ctx context.Context) {
	if err := f.document.Close(); err != nil {
		f.reloader.log.LogAttrs(ctx, slog.LevelWarn, "users file", slog.Any("err", err))
	}
}
