package component

// definedType reads a type section's element.
func (p *parser) definedType() any {
	code := p.Byte()
	if k, ok := primitiveKinds[code]; ok {
		return valueDef{kind: k}
	}
	switch code {
	case 0x3f:
		return p.resource()
	case 0x40:
		return p.function()
	case 0x42:
		return p.instanceType()
	case 0x72:
		return p.compound(kindRecord)
	case 0x71:
		return p.variant()
	case 0x70:
		return valueDef{kind: kindList, parts: []valueRef{p.value()}}
	case 0x6f:
		d := valueDef{kind: kindTuple}
		p.many(func() { d.parts = append(d.parts, p.value()) })
		return d
	case 0x6e:
		return p.labelled(kindFlags)
	case 0x6d:
		return p.labelled(kindEnum)
	case 0x6b:
		return valueDef{kind: kindOption, parts: []valueRef{p.value()}}
	case 0x6a:
		return valueDef{kind: kindResult, parts: []valueRef{p.optional(), p.optional()}}
	case 0x69:
		return valueDef{kind: kindOwn, index: p.U32()}
	case 0x68:
		return valueDef{kind: kindBorrow, index: p.U32()}
	}
	what := map[byte]string{
		0x3e: "async resource", 0x41: "component type", 0x43: "async function", 0x63: "map", 0x64: "error-context",
		0x65: "future", 0x66: "stream", 0x67: "list of fixed length",
	}[code]
	if what == "" {
		what = "unknown"
	}
	p.Fail("a type of the form %#x (%s), which this host does not know", code, what)
	return nil
}

var primitiveKinds = map[byte]kind{
	0x7f: kindBool, 0x7e: kindS8, 0x7d: kindU8, 0x7c: kindS16, 0x7b: kindU16, 0x7a: kindS32, 0x79: kindU32,
	0x78: kindS64, 0x77: kindU64, 0x76: kindF32, 0x75: kindF64, 0x74: kindChar, 0x73: kindString,
}

// value reads a type where one is used: primitive ones are negative numbers of
// one byte.
func (p *parser) value() valueRef {
	q := *p.Reader // to look ahead
	code := q.Byte()
	if k, ok := primitiveKinds[code]; ok {
		p.Byte()
		return valueRef{kind: k, which: refPrimitive}
	}
	if code&0xc0 == 0x40 {
		p.Fail("a value of type %#x, which this host does not know", code)
	}
	return valueRef{index: p.U32(), which: refIndex}
}

func (p *parser) optional() valueRef {
	if p.option() {
		return p.value()
	}
	return valueRef{}
}

func (p *parser) compound(k kind) valueDef {
	d := valueDef{kind: k}
	p.many(func() { d.labels, d.parts = append(d.labels, p.name()), append(d.parts, p.value()) })
	return d
}

func (p *parser) variant() valueDef {
	d := valueDef{kind: kindVariant}
	p.many(func() {
		d.labels, d.parts = append(d.labels, p.name()), append(d.parts, p.optional())
		if p.Byte() != 0 {
			p.Fail("a case that refines another")
		}
	})
	return d
}

func (p *parser) labelled(k kind) valueDef {
	d := valueDef{kind: k}
	p.many(func() { d.labels = append(d.labels, p.name()) })
	return d
}

func (p *parser) function() functionDef {
	var d functionDef
	p.many(func() { d.names, d.params = append(d.names, p.name()), append(d.params, p.value()) })
	switch form := p.Byte(); form {
	case 0:
		d.result = p.value()
	case 1:
		p.zero()
	default:
		p.Fail("results of the form %#x", form)
	}
	return d
}

func (p *parser) resource() resourceDef {
	if rep := p.Byte(); rep != 0x7f {
		p.Fail("a resource that is not an i32")
	}
	if p.option() { // the destructor
		p.U32()
	}
	return resourceDef{}
}

func (p *parser) instanceType() instanceType {
	var t instanceType
	if p.depth++; p.depth > maxDepth {
		p.Fail("types nested more than %d deep", maxDepth)
	}
	p.many(func() {
		switch form := p.Byte(); form {
		case 1:
			t = append(t, p.definedType())
		case 2:
			t = append(t, p.alias())
		case 4:
			t = append(t, exportType{p.externName(), p.description()})
		default:
			p.Fail("a declaration of the form %#x in the type of an instance", form)
		}
	})
	p.depth--
	return t
}
