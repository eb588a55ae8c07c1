package component

import (
	"bytes"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/proscenium-dev/proscenium/wit/wasm"
)

// header begins every component.
const header = "\x00asm\x0d\x00\x01\x00"

// Is says whether code begins as a component does.
func Is(code []byte) bool { return bytes.HasPrefix(code, []byte(header)) }

// Bounds of a component's syntax. Those that tools make have some thousands of
// definitions and are nested three deep.
const (
	maxDefinitions = 50000 // with everything that is a line in the text format
	maxDepth       = 8
	maxName        = 1024 // bytes
)

// parser is what is left of the bounds.
type parser struct {
	*wasm.Reader
	left  *int
	depth int
}

// parse reads a component. The modules inside are slices of code.
func parse(code []byte) (*component, error) {
	left := maxDefinitions
	p := &parser{wasm.NewReader(code), &left, 0}
	c := p.component()
	return c, p.Err
}

// many reads the elements of a vector, each of which counts.
func (p *parser) many(element func()) {
	p.Vector(func() {
		p.count()
		element()
	})
}

func (p *parser) count() {
	if *p.left--; *p.left < 0 {
		p.Fail("more than %d definitions", maxDefinitions)
	}
}

// in is a parser of a part.
func (p *parser) in(b []byte, deeper int) *parser {
	q := &parser{wasm.NewReader(b), p.left, p.depth + deeper}
	if q.depth > maxDepth {
		q.Fail("nested more than %d deep", maxDepth)
	}
	return q
}

func (p *parser) component() *component {
	c := &component{}
	if !bytes.Equal(p.Take(min(len(header), p.Len())), []byte(header)) {
		p.Fail("it is not a component of this version")
	}
	for p.Len() > 0 {
		id := p.Byte()
		s := p.in(p.Bytes(), 0)
		p.count()
		s.section(id, c)
		if s.Err == nil && s.Len() > 0 && id != 0 {
			s.Fail("%d bytes too many", s.Len())
		}
		if s.Err != nil {
			p.Fail("section %s: %w", sectionName(id), s.Err)
		}
	}
	return c
}

func sectionName(id byte) string {
	return name(id, "custom", "core module", "core instance", "core type", "component", "instance", "alias", "type", "canon", "start", "import", "export", "value")
}

// name is one of names, or a number.
func name(n byte, names ...string) string {
	if int(n) < len(names) {
		return names[n]
	}
	return fmt.Sprintf("%#x", n)
}

func (p *parser) section(id byte, c *component) {
	define := func(d any) { c.definitions = append(c.definitions, d) }
	switch id {
	case 0: // custom: names and producers
	case 1:
		define(moduleDef(p.Take(p.Len())))
	case 2:
		p.many(func() { define(p.coreInstance()) })
	case 4:
		q := p.in(p.Take(p.Len()), 1)
		define(q.component())
		if q.Err != nil {
			p.Fail("%w", q.Err)
		}
	case 5:
		p.many(func() { define(p.instance()) })
	case 6:
		p.many(func() { define(p.alias()) })
	case 7:
		p.many(func() { define(p.definedType()) })
	case 8:
		p.many(func() { define(p.canon()) })
	case 10:
		p.many(func() { define(importDef{p.externName(), p.description()}) })
	case 11:
		p.many(func() { define(p.export()) })
	default: // core type, start, value: no tool that we know makes them
		p.Fail("this host does not know it")
	}
}

// name is a name of the component's, which will be in errors.
func (p *parser) name() string {
	b := p.Bytes()
	if len(b) > maxName || !utf8.Valid(b) {
		p.Fail("a name of %d bytes, more than %d or not UTF-8", len(b), maxName)
		return ""
	}
	if bytes.ContainsFunc(b, func(r rune) bool { return !unicode.IsPrint(r) }) {
		p.Fail("the name %.100q has characters that cannot be printed", b)
		return ""
	}
	return string(b)
}

// externName is the name of an import or export of a component.
func (p *parser) externName() string {
	if form := p.Byte(); form > 1 {
		p.Fail("a name of the form %#x", form)
	}
	return p.name()
}

func (p *parser) coreInstance() any {
	switch form := p.Byte(); form {
	case 0:
		d := coreInstantiation{module: p.U32()}
		p.many(func() {
			arg := namedReference{p.name(), reference{sortCore, coreSort(p.Byte()), p.U32()}}
			if arg.core != coreInstance {
				p.Fail("the argument %s is no instance", arg.name)
			}
			d.args = append(d.args, arg)
		})
		return d
	case 1:
		var d coreBundle
		p.many(func() {
			d = append(d, namedReference{p.name(), reference{sortCore, coreSort(p.Byte()), p.U32()}})
		})
		return d
	default:
		p.Fail("a core instance of the form %#x", form)
		return nil
	}
}

func (p *parser) instance() any {
	switch form := p.Byte(); form {
	case 0:
		d := instantiation{component: p.U32()}
		p.many(func() { d.args = append(d.args, namedReference{p.name(), p.reference()}) })
		return d
	case 1:
		var d bundle
		p.many(func() { d = append(d, namedReference{p.externName(), p.reference()}) })
		return d
	default:
		p.Fail("an instance of the form %#x", form)
		return nil
	}
}

// sorted reads a sort.
func (p *parser) sorted() (r reference) {
	if r.sort = sort(p.Byte()); r.sort == sortCore {
		r.core = coreSort(p.Byte())
	}
	if r.sort > sortInstance || r.sort == sortValue {
		p.Fail("items of sort %s", r.sort)
	}
	return r
}

func (p *parser) reference() reference {
	r := p.sorted()
	r.index = p.U32()
	return r
}

func (p *parser) alias() aliasDef {
	d := aliasDef{reference: p.sorted(), target: target(p.Byte()), of: p.U32()}
	switch d.target {
	case targetExport, targetCoreExport:
		d.name = p.name()
	case targetOuter:
		d.index = p.U32()
	default:
		p.Fail("an alias of the form %#x", byte(d.target))
	}
	return d
}

func (p *parser) export() exportDef {
	d := exportDef{name: p.externName(), reference: p.reference()}
	if p.option() {
		as := p.description()
		d.as = &as
	}
	return d
}

// option says whether something follows.
func (p *parser) option() bool {
	b := p.Byte()
	if b > 1 {
		p.Fail("%#x where 0 or 1 should be", b)
	}
	return b == 1
}

func (p *parser) description() (d description) {
	switch form := p.Byte(); form {
	case 1:
		d.sort, d.index = sortFunc, p.U32()
	case 3:
		d.sort = sortType
		switch bound := p.Byte(); bound {
		case 0:
			d.index = p.U32()
		case 1:
			d.fresh = true
		default:
			p.Fail("a type bound of the form %#x", bound)
		}
	case 5:
		d.sort, d.index = sortInstance, p.U32()
	default:
		p.Fail("imports and exports of the form %s are not known to this host", name(form, "core module", "function", "value", "type", "component"))
	}
	return d
}
