package component

import "fmt"

// typ makes a type of its definition.
func (l *linker) typ(s *scope, d any) (any, error) {
	switch d := d.(type) {
	case valueDef:
		return l.valueType(s, d)
	case functionDef:
		if err := l.spend(len(d.params)); err != nil {
			return nil, err
		}
		var params []*valueType
		for _, p := range d.params {
			t, err := s.value(p)
			if err != nil {
				return nil, err
			}
			params = append(params, t)
		}
		result, err := s.value(d.result)
		if err != nil {
			return nil, err
		}
		return newFuncType(d.names, params, result)
	case instanceType:
		return template{d, s}, nil
	case resourceDef:
		return &resource{"of the guest"}, nil
	}
	return nil, fmt.Errorf("a definition %T", d)
}

func (l *linker) valueType(s *scope, d valueDef) (any, error) {
	if d.kind <= kindString {
		return primitives[d.kind], nil
	}
	if d.kind == kindOwn || d.kind == kindBorrow {
		t, err := at("type", s.types, d.index)
		if err != nil {
			return nil, err
		}
		r, ok := t.(*resource)
		if !ok {
			return nil, fmt.Errorf("%s of type %d, which is no resource", kindNames[d.kind], d.index)
		}
		return newHandle(d.kind, r), nil
	}
	if err := l.spend(len(d.parts) + len(d.labels)); err != nil {
		return nil, err
	}
	parts := make([]*valueType, len(d.parts))
	for i, p := range d.parts {
		var err error
		if parts[i], err = s.value(p); err != nil {
			return nil, err
		}
	}
	return newType(d.kind, d.labels, parts...)
}

// value is the type of a value; nil is none.
func (s *scope) value(r valueRef) (*valueType, error) {
	switch r.which {
	case refNone:
		return nil, nil
	case refPrimitive:
		return primitives[r.kind], nil
	}
	item, err := at("type", s.types, r.index)
	if err != nil {
		return nil, err
	}
	if t, ok := item.(*valueType); ok {
		return t, nil
	}
	return nil, fmt.Errorf("type %d is not that of a value", r.index)
}

// match compares an item with the description of it in scope s, and returns it.
// An item that a denied instance should have is made as described: then item is
// nil.
func (l *linker) match(s *scope, d description, item any) (any, error) {
	if d.fresh {
		switch item := item.(type) {
		case nil:
			return &resource{"of a refused interface"}, nil
		case *resource:
			return item, nil
		}
		return nil, fmt.Errorf("a resource is wanted, but it is another type")
	}
	want, err := at("type", s.types, d.index)
	if err != nil {
		return nil, err
	}
	switch d.sort {
	case sortFunc:
		return l.matchFunction(want, item)
	case sortInstance:
		return l.matchInstance(want, item)
	}
	if item == nil {
		return want, nil
	}
	return item, l.matchType(want, item)
}

func (l *linker) matchFunction(want, item any) (any, error) {
	t, ok := want.(*funcType)
	if !ok {
		return nil, fmt.Errorf("the type of a function is none")
	}
	if item == nil {
		return &function{typ: t}, nil
	}
	f, ok := item.(*function)
	if !ok {
		return nil, fmt.Errorf("a function is wanted, but it is something else")
	}
	if err := l.spend(min(t.size(), f.typ.size())); err != nil {
		return nil, err
	}
	if !t.equal(f.typ) {
		return nil, fmt.Errorf("it has the type %s, want %s", t, f.typ)
	}
	return f, nil
}

func (f *funcType) size() int {
	n := f.params.size
	if f.result != nil {
		n += f.result.size
	}
	return n
}

func (l *linker) matchType(want, item any) error {
	same := want == item
	switch want := want.(type) {
	case *valueType:
		if t, ok := item.(*valueType); ok {
			if err := l.spend(min(t.size, want.size)); err != nil {
				return err
			}
			same = want.equal(t)
		}
	case *funcType:
		t, ok := item.(*funcType)
		same = ok && want.equal(t)
	case template:
		same = false
	}
	if !same {
		return fmt.Errorf("it has the type %v, want %v", want, item)
	}
	return nil
}

// matchInstance compares what an instance has with what its type wants of it.
func (l *linker) matchInstance(want, item any) (any, error) {
	t, ok := want.(template)
	if !ok {
		return nil, fmt.Errorf("the type of an instance is none")
	}
	i, ok := item.(*instance)
	if !ok && item != nil {
		return nil, fmt.Errorf("an instance is wanted, but it is something else")
	}
	if i == nil {
		i = &instance{exports: map[string]any{}, denied: true}
	}
	if l.depth++; l.depth > maxNesting {
		return nil, fmt.Errorf("types nested more than %d deep", maxNesting)
	}
	defer func() { l.depth-- }()
	s := &scope{outer: t.outer}
	for _, d := range t.instanceType {
		if err := l.spend(1); err != nil {
			return nil, err
		}
		if err := l.declare(s, d, i); err != nil {
			return nil, err
		}
	}
	return i, nil
}

func (l *linker) declare(s *scope, d any, i *instance) error {
	switch d := d.(type) {
	case aliasDef:
		if d.target != targetOuter {
			return fmt.Errorf("an alias in a type that is not of the outside")
		}
		return l.alias(s, d)
	case exportType:
		item, ok := i.exports[d.name]
		if !ok && !i.denied {
			return fmt.Errorf("it imports what this host does not have: %s", d.name)
		}
		item, err := l.match(s, d.description, item)
		if err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		if !ok {
			if f, isFunction := item.(*function); isFunction {
				f.name = i.name + " " + d.name
			}
			i.exports[d.name] = item
		}
		s.push(item)
		return nil
	}
	t, err := l.typ(s, d)
	s.types = append(s.types, t)
	return err
}
