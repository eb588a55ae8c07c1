package component

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tetratelabs/wazero/api"
)

// A kind is that of a value type.
type kind byte

const (
	kindBool kind = iota
	kindS8
	kindU8
	kindS16
	kindU16
	kindS32
	kindU32
	kindS64
	kindU64
	kindF32
	kindF64
	kindChar
	kindString // the last of the primitive ones
	kindList
	kindRecord
	kindVariant
	kindTuple
	kindFlags
	kindEnum
	kindOption
	kindResult
	kindOwn
	kindBorrow
)

// kindNames are the names in WIT.
var kindNames = [...]string{
	"bool", "s8", "u8", "s16", "u16", "s32", "u32", "s64", "u64", "f32", "f64", "char", "string",
	"list", "record", "variant", "tuple", "flags", "enum", "option", "result", "own", "borrow",
}

// A resource is known by its identity; the name is for people.
type resource struct{ name string }

// A valueType is a tree whose parts may be shared. Two are the same if they are
// built the same: names of types mean nothing, those of fields and cases do.
type valueType struct {
	kind     kind
	labels   []string     // of fields, cases and flags
	parts    []*valueType // of fields, cases, elements; of a result ok and error; nil is none
	resource *resource
	size     int             // nodes, counting shared parts as often as they are used
	flat     []api.ValueType // what it is passed as, cut off where it is too long to matter
	pointers bool            // it has parts that are behind a pointer
}

// maxTypeSize bounds a type's nodes, and so the work with it: sharing makes a
// tree of 2^n nodes of n definitions.
const maxTypeSize = 4096

var errTypeSize = fmt.Errorf("a type of more than %d parts", maxTypeSize)

var primitives = func() (all [kindString + 1]*valueType) {
	for k := range all {
		all[k] = &valueType{kind: kind(k), size: 1, pointers: kind(k) == kindString}
		all[k].flat = all[k].flatten()
	}
	return all
}()

// newHandle is own or borrow.
func newHandle(k kind, r *resource) *valueType {
	return &valueType{kind: k, resource: r, size: 1, flat: []api.ValueType{api.ValueTypeI32}}
}

func newType(k kind, labels []string, parts ...*valueType) (*valueType, error) {
	t := &valueType{kind: k, labels: labels, parts: parts, size: 1 + len(labels), pointers: k == kindList}
	for _, p := range parts {
		if p != nil {
			t.size += p.size
			t.pointers = t.pointers || p.pointers
		}
		if t.size > maxTypeSize {
			return nil, errTypeSize
		}
	}
	if t.size > maxTypeSize {
		return nil, errTypeSize
	}
	if k == kindFlags && len(labels) > 32 {
		return nil, errors.New("flags of more than 32 labels")
	}
	t.flat = t.flatten()
	return t, nil
}

func (t *valueType) equal(u *valueType) bool {
	if t == u {
		return true
	}
	return t != nil && u != nil && t.kind == u.kind && t.size == u.size && t.resource == u.resource &&
		slices.Equal(t.labels, u.labels) && slices.EqualFunc(t.parts, u.parts, (*valueType).equal)
}

// String is the type in WIT.
func (t *valueType) String() string {
	var b strings.Builder
	t.write(&b)
	return b.String()
}

// longestType is how much of a type is told, in bytes.
const longestType = 400

func (t *valueType) write(b *strings.Builder) {
	if t == nil {
		b.WriteByte('_')
		return
	}
	if b.Len() > longestType {
		b.WriteString("…")
		return
	}
	b.WriteString(kindNames[t.kind])
	if t.kind <= kindString {
		return
	}
	b.WriteByte('<')
	if t.resource != nil {
		b.WriteString(t.resource.name)
	}
	for i := range max(len(t.labels), len(t.parts)) {
		if i > 0 {
			b.WriteString(", ")
		}
		if i < len(t.labels) {
			b.WriteString(t.labels[i])
		}
		if i < len(t.labels) && i < len(t.parts) {
			b.WriteString(": ")
		}
		if i < len(t.parts) {
			t.parts[i].write(b)
		}
		if b.Len() > longestType {
			break
		}
	}
	b.WriteByte('>')
}

// A funcType is the type of a function. Names of parameters are part of it.
type funcType struct {
	params valueType // a record
	result *valueType
}

func newFuncType(names []string, params []*valueType, result *valueType) (*funcType, error) {
	p, err := newType(kindRecord, names, params...)
	if err != nil {
		return nil, err
	}
	return &funcType{*p, result}, nil
}

func (f *funcType) equal(g *funcType) bool {
	return f.params.equal(&g.params) && f.result.equal(g.result)
}

func (f *funcType) String() string {
	text := "func" + strings.TrimPrefix(f.params.String(), "record")
	if f.result != nil {
		text += " -> " + f.result.String()
	}
	return text
}

// The canonical ABI's limits: what is more goes through memory.
const (
	maxFlatParams  = 16
	maxFlatResults = 1
)

// lowered is the core signature of the function as an import.
func (f *funcType) lowered() (params, results []api.ValueType) {
	params, results = f.flat()
	if len(results) > maxFlatResults {
		params, results = append(params, api.ValueTypeI32), nil
	}
	return params, results
}

// lifted is the core signature of the function as an export.
func (f *funcType) lifted() (params, results []api.ValueType) {
	params, results = f.flat()
	if len(results) > maxFlatResults {
		results = []api.ValueType{api.ValueTypeI32}
	}
	return params, results
}

func (f *funcType) flat() (params, results []api.ValueType) {
	if params = f.params.flat; len(params) > maxFlatParams {
		params = []api.ValueType{api.ValueTypeI32}
	}
	if f.result != nil {
		results = f.result.flat
	}
	return slices.Clone(params), results
}

// flatten finds the core types that a value is passed as, or the first of more
// than are passed that way.
func (t *valueType) flatten() (flat []api.ValueType) {
	const i32, i64 = api.ValueTypeI32, api.ValueTypeI64
	switch t.kind {
	case kindS64, kindU64:
		return []api.ValueType{i64}
	case kindF32:
		return []api.ValueType{api.ValueTypeF32}
	case kindF64:
		return []api.ValueType{api.ValueTypeF64}
	case kindString, kindList:
		return []api.ValueType{i32, i32}
	case kindRecord, kindTuple:
		for _, p := range t.parts {
			flat = append(flat, p.flat...)
			if len(flat) > maxFlatParams {
				break
			}
		}
	case kindFlags:
		if len(t.labels) > 0 {
			flat = []api.ValueType{i32}
		}
	case kindVariant, kindOption, kindResult:
		flat = append([]api.ValueType{i32}, t.joined()...)
	default:
		return []api.ValueType{i32}
	}
	return flat[:min(len(flat), maxFlatParams+1)]
}

// joined are core types in which the payload of any case fits.
func (t *valueType) joined() (all []api.ValueType) {
	narrow := func(t api.ValueType) bool { return t == api.ValueTypeI32 || t == api.ValueTypeF32 }
	for _, p := range t.parts {
		if p == nil {
			continue
		}
		for i, v := range p.flat {
			switch {
			case i == len(all):
				all = append(all, v)
			case all[i] == v:
			case narrow(all[i]) && narrow(v):
				all[i] = api.ValueTypeI32
			default:
				all[i] = api.ValueTypeI64
			}
		}
	}
	return all
}
