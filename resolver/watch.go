package resolver

import (
	"log/slog"
	"os"
)

// stamp tells one version of a file from another.
type stamp struct {
	info os.FileInfo // nil: missing
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{info: info}
}

// same reports whether the file was neither written nor replaced.
func (s stamp) same(t stamp) bool {
	if s.info == nil || t.info == nil {
		return s.info == nil && t.info == nil
	}
	return os.SameFile(s.info, t.info) && s.info.ModTime().Equal(t.info.ModTime()) && s.info.Size() == t.info.Size()
}

func unchanged(a, b [2]stamp) bool { return a[0].same(b[0]) && a[1].same(b[1]) }

// watch takes over the system's files when they changed, and have stayed as
// they are since the look before: one that is being written is empty for a
// moment, or not there, and an empty resolv.conf means a name server on this
// host. Files that cannot be read leave all as it is, and are tried again when
// they change once more.
func (r *Resolver) watch() {
	r.config.Lock()
	defer r.config.Unlock()
	st := r.state.Load()
	stamps := [2]stamp{stampOf(st.opts.ResolvConf), stampOf(st.opts.Hosts)}
	stable := unchanged(r.looked, stamps)
	r.looked = stamps
	if !stable || unchanged(st.stamps, stamps) {
		return
	}
	err := r.rebuild(st.opts)
	if err != nil {
		same := *st
		same.stamps = stamps
		r.state.Store(&same)
	}
	if log := st.opts.Logger; log != nil {
		if err != nil {
			log.Warn("the system's resolver files changed and cannot be read: the old ones stay in force", slog.Any("err", err))
			return
		}
		log.Info("the system's resolver files changed", slog.Int("servers", len(r.state.Load().servers)))
	}
}
