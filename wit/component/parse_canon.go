package component

import "fmt"

// builtins are the canonical built-ins that this host refuses, for the error.
var builtins = map[byte]string{
	0x05: "task.cancel or another async built-in", 0x06: "subtask.cancel", 0x07: "resource.drop async",
	0x08: "backpressure.set", 0x09: "task.return", 0x0a: "context.get", 0x0b: "context.set", 0x0c: "yield", 0x0d: "subtask.drop",
	0x1f: "waitable-set.new", 0x20: "waitable-set.wait", 0x21: "waitable-set.poll", 0x22: "waitable-set.drop", 0x23: "waitable.join",
	0x24: "backpressure.inc", 0x25: "backpressure.dec", 0x40: "thread.spawn-ref", 0x41: "thread.spawn-indirect", 0x42: "thread.available-parallelism",
}

func (p *parser) canon() any {
	switch opcode := p.Byte(); opcode {
	case 0x00:
		p.zero()
		d := liftDef{function: p.U32(), options: p.options()}
		d.typ = p.U32()
		return d
	case 0x01:
		p.zero()
		d := lowerDef{function: p.U32(), options: p.options()}
		if d.options.post != nil {
			p.Fail("a lowering has a post-return function")
		}
		return d
	case 0x02:
		return resourceFunc{"resource.new", p.U32()}
	case 0x03:
		return resourceFunc{"resource.drop", p.U32()}
	case 0x04:
		return resourceFunc{"resource.rep", p.U32()}
	default:
		what, ok := builtins[opcode]
		if !ok && opcode >= 0x0e && opcode <= 0x1e {
			what, ok = "a stream, future or error-context", true
		}
		if !ok {
			what = "unknown"
		}
		p.Fail("the canonical built-in %#x (%s): this host does not know async components; build without async", opcode, what)
		return nil
	}
}

func (p *parser) zero() {
	if b := p.Byte(); b != 0 {
		p.Fail("a canonical function of the form %#x", b)
	}
}

// options reads canonical options, each of which may be given once.
func (p *parser) options() (o options) {
	encoded := false
	once := func(to **uint32) {
		if *to != nil {
			p.Fail("a canonical option is given twice")
		}
		v := p.U32()
		*to = &v
	}
	p.many(func() {
		switch option := p.Byte(); option {
		case 0x00: // utf8
			if encoded {
				p.Fail("a string encoding is given twice")
			}
			encoded = true
		case 0x01, 0x02:
			p.Fail("strings in %s: this host knows UTF-8 only", [...]string{1: "UTF-16", 2: "Latin-1 or UTF-16"}[option])
		case 0x03:
			once(&o.memory)
		case 0x04:
			once(&o.realloc)
		case 0x05:
			once(&o.post)
		default:
			what := fmt.Sprintf("%#x", option)
			if option == 0x06 || option == 0x07 {
				what = [...]string{6: "async", 7: "callback"}[option]
			}
			p.Fail("the canonical option %s: this host does not know async components; build without async", what)
		}
	})
	return o
}
