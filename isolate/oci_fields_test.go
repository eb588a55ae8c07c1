package isolate

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A leaf is one field of a configuration that holds no others.
type leaf struct {
	name  string
	fresh string // the name of the new list entry that it is in, if it is in one
	set   func(*specs.Spec)
}

// leaves are all of them: in each entry that a list has, and in one more. old is
// the value in the configuration, at finds it in a copy.
func leaves(old reflect.Value, name, fresh string, at func(*specs.Spec) reflect.Value) (list []leaf) {
	switch t := old.Type(); t.Kind() {
	case reflect.Pointer:
		inner := reflect.Zero(t.Elem())
		if !old.IsNil() {
			inner = old.Elem()
		}
		return leaves(inner, name, fresh, func(s *specs.Spec) reflect.Value {
			p := at(s)
			if p.IsNil() {
				p.Set(reflect.New(t.Elem()))
			}
			return p.Elem()
		})
	case reflect.Struct:
		for f := range fields(t) {
			list = append(list, leaves(old.FieldByIndex(f.Index), joinPath(name, jsonName(f), nil), fresh, func(s *specs.Spec) reflect.Value { return at(s).FieldByIndex(f.Index) })...)
		}
	case reflect.Slice:
		for i := range old.Len() + 1 {
			entry, name, fresh := reflect.Zero(t.Elem()), fmt.Sprintf("%s[%d]", name, i), fresh
			if i < old.Len() {
				entry = old.Index(i)
			} else if fresh == "" {
				fresh = name
			}
			list = append(list, leaves(entry, name, fresh, func(s *specs.Spec) reflect.Value {
				v := at(s)
				if v.Len() <= i {
					v.Set(reflect.Append(v, reflect.Zero(t.Elem())))
				}
				return v.Index(i)
			})...)
		}
	case reflect.Map:
		return []leaf{{joinPath(name, "x", t), fresh, func(s *specs.Spec) {
			m := at(s)
			if m.IsNil() {
				m.Set(reflect.MakeMap(t))
			}
			m.SetMapIndex(reflect.ValueOf("x"), reflect.Zero(t.Elem()))
		}}}
	default:
		return []leaf{{name, fresh, func(s *specs.Spec) { change(at(s)) }}}
	}
	return list
}

// change sets a value to another one that is not zero, but for true.
func change(v reflect.Value) {
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.String:
		v.SetString("x" + v.String())
	case reflect.Interface:
		v.Set(reflect.ValueOf("x"))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(v.Int() + 7)
	default:
		v.SetUint(v.Uint() + 7)
	}
}

// contradicted are fields that must agree with another, which is refused then.
var contradicted = map[string]string{
	"process.user.uid":             "linux.uidMappings[0].containerID",
	"process.user.gid":             "linux.gidMappings[0].containerID",
	"linux.resources.memory.limit": "linux.resources.memory.swap",
	"process.rlimits[].hard":       "process.rlimits[].soft",
	"linux.namespaces[].type":      "linux.namespaces",
	"process.env[0]":               "process.args[0]", // its PATH
	"mounts[].options[]":           "mounts[].type",   // without bind
}

// TestNoFieldIsIgnored sets each field of the specification on top of the file
// that is accepted: it is refused by name, or the outcome is another one.
func TestNoFieldIsIgnored(t *testing.T) {
	var base specs.Spec
	if err := json.Unmarshal(accepted(t), &base); err != nil {
		t.Fatal(err)
	}
	want, err := FromOCI(accepted(t), ociBundle, ociHost())
	if err != nil {
		t.Fatal(err)
	}
	list := leaves(reflect.ValueOf(base), "", "", func(s *specs.Spec) reflect.Value { return reflect.ValueOf(s).Elem() })
	differs := 0
	for _, l := range list {
		t.Run(l.name, func(t *testing.T) {
			var s specs.Spec
			if err := json.Unmarshal(accepted(t), &s); err != nil {
				t.Fatal(err)
			}
			l.set(&s)
			b, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			got, err := FromOCI(b, ociBundle, ociHost())
			switch {
			case err == nil && reflect.DeepEqual(got, want):
				t.Error("is ignored")
			case err == nil:
				differs++
			case !names(err, l):
				t.Errorf("is not named: %v", err)
			}
		})
	}
	if len(list) < 300 || differs < 10 {
		t.Errorf("%d fields, of which %d change the outcome", len(list), differs)
	}
}

// names says whether the error names the leaf, something that holds it, what it
// contradicts, or in a new list entry anything of that.
func names(err error, l leaf) bool {
	for line := range strings.Lines(err.Error()) {
		name, _, _ := strings.Cut(line, ": ")
		general := func(s string) string { return indices.ReplaceAllString(s, "[]") }
		switch rest, holds := strings.CutPrefix(l.name, name); {
		case holds && (rest == "" || rest[0] == '.' || rest[0] == '['),
			contradicted[l.name] == name,
			strings.Contains(l.name, "[") && contradicted[general(l.name)] == general(name),
			l.fresh != "" && strings.HasPrefix(name, l.fresh):
			return true
		}
	}
	return false
}

// FuzzOCI: whatever the file holds, reading it ends; what is accepted ignores
// nothing that is set on top of it.
func FuzzOCI(f *testing.F) {
	f.Add(accepted(f), uint16(0))
	for _, s := range []string{"{}", "null", "[]", `{"linux":{"seccomp":null}}`, `{"mounts":[{}]}`} {
		f.Add([]byte(s), uint16(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, which uint16) {
		want, err := FromOCI(b, ociBundle, ociHost())
		if err != nil {
			return
		}
		var s specs.Spec
		if err := json.Unmarshal(b, &s); err != nil {
			t.Fatalf("accepted, and no JSON: %v", err)
		}
		if !reflect.DeepEqual(want.Program.Args, s.Process.Args) || want.Program.Dir != s.Process.Cwd || want.Spec.UID != int(s.Process.User.UID) {
			t.Errorf("%+v", want)
		}
		list := leaves(reflect.ValueOf(s), "", "", func(s *specs.Spec) reflect.Value { return reflect.ValueOf(s).Elem() })
		l := list[int(which)%len(list)]
		l.set(&s)
		changed, err := json.Marshal(s)
		if err != nil {
			return
		}
		if got, err := FromOCI(changed, ociBundle, ociHost()); err == nil && reflect.DeepEqual(got, want) {
			t.Errorf("%s is ignored", l.name)
		}
	})
}
