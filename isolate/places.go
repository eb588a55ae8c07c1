package isolate

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// places are mount points in a root, in the order in which they are mounted.
type places struct {
	view  *view
	found map[string]string // as it is named, or leads to → where it leads to
}

// add finds the place of a mount. What does not exist is made, but only outside
// of what the root shows, which stays as it is.
func (p *places) add(name string) (string, error) {
	name = path.Clean(name)
	real, err := p.find(name)
	if err != nil {
		return "", err
	}
	if _, taken := p.found[real]; taken {
		return "", fmt.Errorf("%s is a mount already", real)
	}
	for other := range p.found {
		if strings.HasPrefix(other, real+"/") {
			return "", fmt.Errorf("%s would hide the earlier mount on %s", name, other)
		}
	}
	p.found[name], p.found[real] = real, real
	return real, nil
}

func (p *places) find(name string) (string, error) {
	// In a mount? Then it is not the root's. The deepest one counts.
	for in := path.Dir(name); in != "/"; in = path.Dir(in) {
		if real, ok := p.found[in]; ok {
			return path.Join(real, name[len(in):]), nil
		}
	}
	first := "/" + strings.SplitN(name[1:], "/", 2)[0]
	if slices.Contains(ofProfile, first) {
		return name, nil // whatever the root has there is not shown
	}
	real, err := p.view.resolve(name)
	if err == nil {
		return real, checkTarget(real) // wherever the links led
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if _, err := p.view.files.Lstat(p.view.outside(first)); errors.Is(err, fs.ErrNotExist) {
		return name, nil
	}
	return "", fmt.Errorf("the root has no %s, and it is not written to: make it there: %w", name, fs.ErrNotExist)
}
