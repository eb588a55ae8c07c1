package isolate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"
)

// A PinError is a program whose content is not the one that was pinned.
type PinError struct {
	Path      string
	Is, Wants string // SHA-256
}

func (e *PinError) Error() string {
	return fmt.Sprintf("%s has SHA-256 %s, and %s is pinned", e.Path, e.Is, e.Wants)
}

// pinned compares the content of an allowed program with its digest. The file
// that is read is the one that was examined and will be bound: device and inode
// are compared. It is read once, and again when its stamp has changed: see
// Profile.Fresh.
func (v *view) pinned(name, digest string) error {
	real, err := v.resolve(name)
	if err != nil {
		return err
	}
	b, ok := v.binds[real]
	if !ok || !b.run || !b.info.Mode().IsRegular() {
		return fmt.Errorf("%s is pinned and is no allowed program", name)
	}
	f, err := openAbs(v.files, real)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !os.SameFile(info, b.info) && b.info.Sys() != nil {
		return fmt.Errorf("%s was replaced while it was looked at", name)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if is := hex.EncodeToString(h.Sum(nil)); is != strings.ToLower(digest) {
		return &PinError{name, is, strings.ToLower(digest)}
	}
	return nil
}
