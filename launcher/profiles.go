package launcher

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"sync"

	"github.com/proscenium-dev/proscenium/isolate"
)

// profiles remembers what starts of one spec have in common: the
// profile, looked into once as long as the host's files stay as they are, and from
// the second start on its template, which is made while the starts go on without
// one.
type profiles struct {
	mu        sync.Mutex
	entries   map[string]*profile
	templates map[[sha256.Size]byte]*template
	clock     uint64 // counts uses, to find the oldest
	closed    bool
	makers    sync.WaitGroup
}

type profile struct {
	*isolate.Profile
	uses, last uint64
	template   *template // nil: not asked for, or none is possible
}

// A template is the namespaces of isolate's. Profiles that come to the same share
// one.
type template struct {
	mu        sync.RWMutex // held for reading while the descriptors are sent
	user, mnt *os.File     // nil: not made yet, or closed
	owners    []string     // whose writes in it are, in words
}

// maxProfiles bounds what is remembered. A template keeps the file systems of what
// it shows busy, and some mounts in the kernel's memory.
const maxProfiles = 64

const mustBeFresh = true

// profile is the profile for the program under the spec, with its template if it
// has one. A known one was looked into before, and may be stale by now unless it
// must not.
func (l *Launcher) profile(spec isolate.Spec, program string, fresh bool) (_ *profile, _ *template, known bool, err error) {
	ps := &l.profiles
	spec = spec.Allowing(program)
	key := fmt.Sprintf("%#v", spec)
	ps.mu.Lock()
	p := ps.entries[key]
	ps.mu.Unlock()
	known = p != nil && (!fresh || p.Fresh())
	if !known {
		host, err := isolate.ThisHost()
		if err != nil {
			return nil, nil, false, err
		}
		looked, err := isolate.Prepare(spec, host)
		if err != nil {
			return nil, nil, false, err
		}
		p = &profile{Profile: looked}
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.closed {
		return nil, nil, false, errClosed
	}
	ps.clock++
	p.uses, p.last = p.uses+1, ps.clock
	if ps.entries == nil {
		ps.entries, ps.templates = map[string]*profile{}, map[[sha256.Size]byte]*template{}
	}
	if ps.entries[key] != p {
		ps.entries[key] = p
		ps.forget()
	}
	if p.uses == 2 {
		l.wantTemplate(p)
	}
	return p, p.template, known, nil
}

// forget drops the profiles that were not used for longest, and templates that are
// no profile's any more.
func (ps *profiles) forget() {
	for len(ps.entries) > maxProfiles {
		oldest := ""
		for key, p := range ps.entries {
			if oldest == "" || p.last < ps.entries[oldest].last {
				oldest = key
			}
		}
		delete(ps.entries, oldest)
	}
	used := map[*template]bool{}
	for _, p := range ps.entries {
		used[p.template] = true
	}
	for key, t := range ps.templates {
		if !used[t] {
			delete(ps.templates, key)
			go t.close() // who sends its descriptors just now goes on
		}
	}
}

// wantTemplate finds the profile's template, or has it made. Without one starts
// are as safe, and slower: a failure is no error.
func (l *Launcher) wantTemplate(p *profile) {
	plan, err := p.Template()
	if err != nil || plan == nil {
		return
	}
	key, err := plan.Key()
	if err != nil {
		return
	}
	ps := &l.profiles
	if t := ps.templates[key]; t != nil {
		p.template = t
		return
	}
	t := &template{}
	p.template, ps.templates[key] = t, t
	ps.makers.Go(func() { l.makeTemplate(plan, t) })
}

func (l *Launcher) makeTemplate(plan *isolate.Plan, t *template) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	made, owners, err := l.newTemplate(ctx, plan)
	if err != nil {
		return
	}
	ps := &l.profiles
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.entries {
		if p.template == t && !ps.closed {
			t.mu.Lock()
			t.user, t.mnt, t.owners = made[0], made[1], owners
			t.mu.Unlock()
			return
		}
	}
	made[0].Close() // forgotten in the meantime
	made[1].Close()
}

// newTemplate runs the plan of a template.
func (l *Launcher) newTemplate(ctx context.Context, plan *isolate.Plan) (made [2]*os.File, owners []string, err error) {
	c := &Cmd{Path: "a template", Plan: plan, launcher: l, ctx: ctx}
	p, err := c.begin(nil, func() error { return nil })
	if err != nil {
		return made, nil, err
	}
	defer p.abandon()
	for p.made[0] == nil {
		r, fds, err := p.receive()
		if err != nil {
			return made, nil, err
		}
		if err := p.advance(r, fds); err != nil {
			return made, nil, err
		}
	}
	step("template made")
	made, p.made = p.made, made
	return made, p.owners, nil
}

// hold gives the descriptors of the namespaces, which stay open until release;
// none where there is no template (yet).
func (t *template) hold() (namespaces []int, release func()) {
	if t == nil {
		return nil, func() {}
	}
	t.mu.RLock()
	if t.user == nil {
		t.mu.RUnlock()
		return nil, func() {}
	}
	return []int{int(t.user.Fd()), int(t.mnt.Fd())}, t.mu.RUnlock
}

func (t *template) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.user != nil {
		t.user.Close()
		t.mnt.Close()
		t.user, t.mnt = nil, nil
	}
}

// close forgets everything and waits for templates that are being made. The
// launcher must have ended, which makes that quick.
func (ps *profiles) close() {
	ps.mu.Lock()
	ps.closed = true
	all := ps.templates
	ps.entries, ps.templates = nil, nil
	ps.mu.Unlock()
	ps.makers.Wait()
	for _, t := range all {
		t.close()
	}
}
