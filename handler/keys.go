package handler

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Keys of a manifest, with their positions: which are unknown, and where the one
// stands that is a table or a word, and which are texts and are not written as such.

// checkKeys refuses keys that the type does not have, all at once, each with its
// position. The library's own check ignores case and loses the names of inline
// tables.
func checkKeys(b []byte, root reflect.Type) error {
	var faults []error
	var p unstable.Parser
	p.Reset(b)
	table := root // where the current [table] leads
	var walk func(n *unstable.Node, t reflect.Type)
	descend := func(keys unstable.Iterator, t reflect.Type) reflect.Type {
		for keys.Next() {
			key := keys.Node()
			for t != nil && t.Kind() == reflect.Slice || t != nil && t.Kind() == reflect.Pointer {
				t = t.Elem()
			}
			switch {
			case t == nil:
			case t.Kind() == reflect.Map:
				t = t.Elem()
			case t.Kind() != reflect.Struct:
				t = nil
			default:
				name := string(key.Data)
				field, ok := fieldOf(t, name)
				if !ok {
					at := p.Shape(p.Range(key.Data)).Start
					faults = append(faults, fmt.Errorf("%d:%d: unknown key %q%s", at.Line, at.Column, name, suggestion(t, name)))
					t = nil
					continue
				}
				t = field
			}
		}
		return t
	}
	noText := func(n *unstable.Node) {
		key := lastKey(n)
		at := p.Shape(p.Range(key)).Start
		faults = append(faults, fmt.Errorf("%d:%d: %s has a value of the wrong type: it is a text in quotes", at.Line, at.Column, key))
	}
	walk = func(n *unstable.Node, t reflect.Type) {
		switch n.Kind {
		case unstable.KeyValue:
			t = descend(n.Key(), t)
			switch {
			case t == nil:
			case isText(t) && n.Value().Kind != unstable.String:
				noText(n)
			default:
				walk(n.Value(), t)
			}
		case unstable.InlineTable, unstable.Array:
			if n.Kind == unstable.Array && t.Kind() == reflect.Slice {
				t = t.Elem()
			}
			for it := n.Children(); it.Next(); {
				walk(it.Node(), t)
			}
		}
	}
	for p.NextExpression() {
		n := p.Expression()
		switch n.Kind {
		case unstable.Table, unstable.ArrayTable:
			if table = descend(n.Key(), root); table != nil && isText(table) {
				noText(n)
			}
		case unstable.KeyValue:
			if table != nil {
				walk(n, table)
			}
		}
	}
	if err := p.Error(); err != nil {
		// Unmarshal says it with its position.
		var file manifestFile
		if err := toml.Unmarshal(b, &file); err != nil {
			return tomlError(err)
		}
		return fmt.Errorf(" %w", err)
	}
	return errors.Join(faults...)
}

// isText says whether values of the type are written as texts. The library would
// also take numbers for them, or an empty table for nothing.
func isText(t reflect.Type) bool {
	if t.Kind() != reflect.Pointer {
		t = reflect.PointerTo(t)
	}
	return t.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func lastKey(n *unstable.Node) (key []byte) {
	for it := n.Key(); it.Next(); {
		key = it.Node().Data
	}
	return key
}

// fieldOf finds the field with just this name; [handlers] means its elements.
func fieldOf(t reflect.Type, name string) (reflect.Type, bool) {
	for f := range fields(t) {
		if f.Tag.Get("toml") == name {
			return f.Type, true
		}
	}
	return nil, false
}

func fields(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if f := t.Field(i); f.Tag.Get("toml") != "" && !yield(f) {
				return
			}
		}
	}
}

// suggestion names the nearest key, or all of them.
func suggestion(t reflect.Type, name string) string {
	var known []string
	for f := range fields(t) {
		tag := f.Tag.Get("toml")
		if distance(strings.ToLower(name), tag) <= 2 {
			return fmt.Sprintf(" (did you mean %q?)", tag)
		}
		known = append(known, tag)
	}
	if len(known) == 0 {
		return ""
	}
	return " (known here: " + strings.Join(known, ", ") + ")"
}

// distance is Levenshtein's, for keys of a few bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := diagonal
			if a[i] != b[j] {
				next = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

// takeNoLimits finds `limits = "none"` in the handlers, by their position, and
// blanks it: elsewhere limits are a table.
func takeNoLimits(b []byte) (none map[int]bool, rest []byte, err error) {
	none = map[int]bool{}
	rest = bytes.Clone(b)
	var p unstable.Parser
	p.Reset(b)
	handler := -1
	var walk func(n *unstable.Node)
	walk = func(n *unstable.Node) {
		switch n.Kind {
		case unstable.KeyValue:
			last, value := lastKey(n), n.Value()
			if string(last) == "limits" && value.Kind == unstable.String {
				at := p.Range(last)
				if string(value.Data) != "none" {
					pos := p.Shape(at).Start
					err = fmt.Errorf(`%d:%d: limits is a table, or the word "none"`, pos.Line, pos.Column)
					return
				}
				none[handler] = true
				// limits = "none" → limits = {}, in the same place.
				copy(rest[value.Raw.Offset:], "{}      "[:value.Raw.Length])
			}
			walk(value)
		case unstable.InlineTable, unstable.Array:
			for it := n.Children(); it.Next(); {
				walk(it.Node())
			}
		}
	}
	for p.NextExpression() {
		n := p.Expression()
		if n.Kind == unstable.ArrayTable {
			it := n.Key()
			it.Next()
			if string(it.Node().Data) == "handlers" && it.IsLast() {
				handler++
			}
		} else if n.Kind == unstable.KeyValue {
			walk(n)
		}
	}
	return none, rest, err
}
