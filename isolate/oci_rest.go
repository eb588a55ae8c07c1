package isolate

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// What a configuration holds besides what is carried out: keys that the
// specification does not have, and fields that nobody has taken.

// keys refuses each key that the type of the configuration does not have, has
// in another spelling (which encoding/json takes), or that is there twice.
func (r *ociReader) keys(d *json.Decoder) {
	d.UseNumber()
	r.value(d, "", reflect.TypeFor[specs.Spec]())
}

// value reads one value; t is nil where any will do. The text is known to be
// JSON: encoding/json has read it, and bounded its depth.
func (r *ociReader) value(d *json.Decoder, name string, t reflect.Type) {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	token, err := d.Token()
	if err != nil {
		r.refuse(name, "%v", err)
		return
	}
	switch token {
	case nil:
		r.refuse(name, "is null: remove it")
	case json.Delim('{'):
		seen := map[string]bool{}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				r.refuse(name, "%v", err)
				return
			}
			k := key.(string)
			path := joinPath(name, k, t)
			if seen[k] {
				r.refuse(path, "is there twice")
			}
			seen[k] = true
			r.text(path, k)
			r.value(d, path, r.member(path, k, t))
		}
		d.Token()
	case json.Delim('['):
		var element reflect.Type
		if t != nil && t.Kind() == reflect.Slice {
			element = t.Elem()
		}
		for i := 0; d.More(); i++ {
			r.value(d, fmt.Sprintf("%s[%d]", name, i), element)
		}
		d.Token()
	default:
		if s, ok := token.(string); ok {
			r.text(name, s)
		}
	}
}

// text refuses what encoding/json puts where a string is broken: the program
// would get another one than the file has.
func (r *ociReader) text(name, s string) {
	if strings.ContainsRune(s, utf8.RuneError) {
		r.refuse(name, "holds U+FFFD, or is not UTF-8")
	}
}

// member is the type of an object's member.
func (r *ociReader) member(path, key string, t reflect.Type) reflect.Type {
	switch {
	case t == nil || t.Kind() == reflect.Interface:
		return nil
	case t.Kind() == reflect.Map:
		return t.Elem()
	case t.Kind() == reflect.Struct:
		for f := range fields(t) {
			if jsonName(f) == key {
				return f.Type
			}
		}
	}
	r.refuse(path, "is unknown to the runtime specification %s: remove it", specs.Version)
	return nil
}

// fields are those that encoding/json sees, the ones of embedded structs too.
func fields(t reflect.Type) func(yield func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for _, f := range reflect.VisibleFields(t) {
			if !f.Anonymous && !yield(f) {
				return
			}
		}
	}
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// joinPath names a member: a.b, or a["b"] where the names are the file's own.
func joinPath(name, key string, t reflect.Type) string {
	switch {
	case t != nil && t.Kind() == reflect.Map:
		return fmt.Sprintf("%s[%q]", name, key)
	case name == "":
		return key
	}
	return name + "." + key
}

// remedies say why a part of the configuration is refused, as a whole where it
// has parts.
var remedies = map[string]string{
	"process.terminal":      "a cell has no terminal: set it to false",
	"process.consoleSize":   "a cell has no terminal: remove it",
	"process.capabilities":  "a program in a cell has none: remove them",
	"process.user.umask":    "it is always 022 (18 in decimal)",
	"process.user.username": notLinux,
	"process.commandLine":   notLinux,
	"hooks":                 "nothing runs beside the program: remove them",
	"linux.cgroupsPath":     "each program gets a group of its own below ours: remove it",
	"linux.devices":         "a cell has null, zero, full, random and urandom, no more: remove it",
	"linux.seccomp":         "the hardened filter is always in force: remove it",
	"solaris":               notLinux,
	"windows":               notLinux,
	"vm":                    notLinux,
	"zos":                   notLinux,
	"freebsd":               notLinux,
}

const (
	notCarriedOut = "not carried out: remove it"
	notLinux      = "is for another platform: remove it"
)

var indices = regexp.MustCompile(`\[\d+\]`)

// rest refuses everything that is left.
func (r *ociReader) rest(v reflect.Value, name string) {
	if nothingIn(v) {
		return
	}
	if why, ok := remedies[indices.ReplaceAllString(name, "")]; ok {
		r.refuse(name, "%s", why)
		return
	}
	before := len(r.faults)
	switch v.Kind() {
	case reflect.Pointer:
		r.rest(v.Elem(), name)
	case reflect.Struct:
		for f := range fields(v.Type()) {
			r.rest(v.FieldByIndex(f.Index), joinPath(name, jsonName(f), nil))
		}
	case reflect.Slice:
		for i := range v.Len() {
			r.rest(v.Index(i), fmt.Sprintf("%s[%d]", name, i))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			r.refuse(joinPath(name, k.String(), v.Type()), notCarriedOut)
		}
	}
	if len(r.faults) == before { // a leaf, or all of it is empty: it is there
		r.refuse(name, notCarriedOut)
	}
}

// nothing says whether all of a struct is empty.
func nothing(v any) bool { return nothingIn(reflect.ValueOf(v)) }

func nothingIn(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	case reflect.Struct:
		for i := range v.NumField() {
			if !nothingIn(v.Field(i)) {
				return false
			}
		}
		return true
	}
	return v.IsZero()
}
