package vault

import (
	"context"
	"time"
)

const (
	// patience is how old a token must be before who is denied logs in anew, to
	// take up policies that its role has got meanwhile: a volume that waits to
	// be published first, and one that has something to show.
	patience     = time.Minute
	longPatience = 10 * time.Minute
)

// instead returns another session for one that was denied something: if the
// token is dead, or so old that its policies may be. It does so once per
// fetch, and never at each poll of who is denied for good; else it returns the
// same one.
func (f *fetch) instead(ctx context.Context, denied *session) *session {
	f.replacement.Do(func() {
		if !denied.own || f.fresh(denied) && (denied.vouched.Load() || denied.alive(ctx)) {
			return
		}
		f.sessions.drop(denied)
		fresh, err := f.sessions.get(ctx, f.login.identity, f.begin)
		if err != nil {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.session = fresh
	})
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.session
}

// fresh reports whether the policies of the token are as good as new.
func (f *fetch) fresh(s *session) bool {
	limit := patience
	if len(f.held.Versions) > 0 {
		limit = longPatience
	}
	return time.Since(s.born) < limit
}
