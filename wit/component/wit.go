package component

import (
	"fmt"
	"strings"
)

// parseWIT reads interfaces in WIT: as much of the language as those of a host
// need, which are trusted. A package statement is valid up to the next one;
// worlds are skipped; what is used stands above its use. The interfaces are by
// their full names.
func parseWIT(text string) (_ map[string]*instance, err error) {
	defer func() {
		if e, ok := recover().(witError); ok {
			err = fmt.Errorf("WIT: %s", string(e))
		}
	}()
	p := &witParser{tokens: witTokens(text), bodies: map[string]witBody{}, done: map[string]*instance{}}
	p.file()
	for name := range p.bodies {
		p.resolve(name)
	}
	return p.done, nil
}

type witError string

type witBody struct {
	start   int // the token behind {
	pkg     string
	version string
}

type witParser struct {
	tokens []string
	at     int
	bodies map[string]witBody   // interfaces as text
	done   map[string]*instance // and resolved
}

// witTokens splits text into words and signs.
func witTokens(text string) (tokens []string) {
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "//")
		for len(line) > 0 {
			n := strings.IndexFunc(line, func(r rune) bool {
				return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '%' || r == '_')
			})
			switch {
			case strings.HasPrefix(line, "->"):
				n = 2
			case n < 0:
				n = len(line)
			case n == 0:
				n = 1
			}
			if word := strings.TrimSpace(line[:n]); word != "" {
				tokens = append(tokens, strings.TrimPrefix(word, "%"))
			}
			line = line[n:]
		}
	}
	return tokens
}

func (p *witParser) next() string {
	if p.at == len(p.tokens) {
		panic(witError("unexpected end"))
	}
	p.at++
	return p.tokens[p.at-1]
}

func (p *witParser) is(token string) bool {
	if p.at < len(p.tokens) && p.tokens[p.at] == token {
		p.at++
		return true
	}
	return false
}

func (p *witParser) want(token string) {
	if got := p.next(); got != token {
		panic(witError(fmt.Sprintf("%q where %q should be, behind %q", got, token, p.tokens[max(0, p.at-8):p.at-1])))
	}
}

// until joins tokens to the given one.
func (p *witParser) until(end string) string {
	var b strings.Builder
	for !p.is(end) {
		b.WriteString(p.next())
	}
	return b.String()
}

// list reads elements between signs, with commas between them.
func (p *witParser) list(end string, element func()) {
	for !p.is(end) {
		element()
		if !p.is(",") {
			p.want(end)
			return
		}
	}
}

func (p *witParser) file() {
	var pkg, version string
	for p.at < len(p.tokens) {
		switch word := p.next(); word {
		case "package":
			pkg, version, _ = strings.Cut(p.until(";"), "@")
			if version != "" {
				version = "@" + version
			}
		case "interface", "world":
			name := p.next()
			p.want("{")
			if word == "interface" {
				p.bodies[pkg+"/"+name+version] = witBody{p.at, pkg, version}
			}
			for depth := 1; depth > 0; {
				switch p.next() {
				case "{":
					depth++
				case "}":
					depth--
				}
			}
		default:
			panic(witError("unknown item " + word))
		}
	}
}

// A witScope is an interface while it is resolved.
type witScope struct {
	*witParser
	witBody
	instance *instance
}

func (p *witParser) resolve(name string) *instance {
	if i, ok := p.done[name]; ok {
		return i
	}
	body, ok := p.bodies[name]
	if !ok {
		panic(witError("no interface " + name))
	}
	i := &instance{name: name, exports: map[string]any{}}
	p.done[name] = i
	before := p.at
	p.at = body.start
	(&witScope{p, body, i}).items()
	p.at = before
	return i
}

func (s *witScope) items() {
	for !s.is("}") {
		switch word := s.next(); word {
		case "use":
			s.use()
		case "type":
			name := s.next()
			s.want("=")
			s.instance.exports[name] = s.valueType()
			s.want(";")
		case "resource":
			s.resource(s.next())
		case "record", "variant", "enum", "flags":
			s.named(word, s.next())
		default:
			s.want(":")
			s.function(word, nil)
		}
	}
}

func (s *witScope) use() {
	var path string
	for !(s.tokens[s.at] == "." && s.tokens[s.at+1] == "{") { // a version has dots as well
		path += s.next()
	}
	s.want(".")
	if !strings.Contains(path, "/") {
		path = s.pkg + "/" + path + s.version
	}
	from := s.witParser.resolve(path)
	s.want("{")
	s.list("}", func() {
		name := s.next()
		t, ok := from.exports[name]
		if !ok {
			panic(witError(path + " has no " + name))
		}
		s.instance.exports[name] = t
	})
	s.want(";")
}

// resource reads a resource and its methods.
func (s *witScope) resource(name string) {
	r := &resource{s.instance.name + " " + name}
	s.instance.exports[name] = r
	if s.is(";") {
		return
	}
	s.want("{")
	for !s.is("}") {
		method := s.next()
		s.want(":")
		s.function("[method]"+name+"."+method, newHandle(kindBorrow, r))
	}
}

func (s *witScope) named(word, name string) {
	k := map[string]kind{"record": kindRecord, "variant": kindVariant, "enum": kindEnum, "flags": kindFlags}[word]
	var labels []string
	var parts []*valueType
	s.want("{")
	s.list("}", func() {
		labels = append(labels, s.next())
		switch {
		case k == kindRecord:
			s.want(":")
			parts = append(parts, s.valueType())
		case k == kindVariant && s.is("("):
			parts = append(parts, s.valueType())
			s.want(")")
		case k == kindVariant:
			parts = append(parts, nil)
		}
	})
	s.instance.exports[name] = s.build(k, labels, parts...)
}

func (s *witScope) build(k kind, labels []string, parts ...*valueType) *valueType {
	t, err := newType(k, labels, parts...)
	if err != nil {
		panic(witError(err.Error()))
	}
	return t
}

func (s *witScope) function(name string, self *valueType) {
	var names []string
	var params []*valueType
	if self != nil {
		names, params = append(names, "self"), append(params, self)
	}
	s.want("func")
	s.want("(")
	s.list(")", func() {
		names = append(names, s.next())
		s.want(":")
		params = append(params, s.valueType())
	})
	var result *valueType
	if s.is("->") {
		result = s.valueType()
	}
	s.want(";")
	t, err := newFuncType(names, params, result)
	if err != nil {
		panic(witError(err.Error()))
	}
	s.instance.exports[name] = &function{name: s.instance.name + " " + name, typ: t}
}

func (s *witScope) valueType() *valueType {
	word := s.next()
	for k, name := range kindNames[:kindString+1] {
		if word == name {
			return primitives[k]
		}
	}
	if word == "_" {
		return nil
	}
	for _, k := range []kind{kindList, kindTuple, kindOption, kindResult, kindBorrow} {
		if word != kindNames[k] {
			continue
		}
		var parts []*valueType
		if s.is("<") {
			s.list(">", func() { parts = append(parts, s.valueType()) })
		}
		switch k {
		case kindResult:
			parts = append(parts, nil, nil)[:2]
		case kindBorrow:
			return newHandle(k, parts[0].resource)
		}
		return s.build(k, nil, parts...)
	}
	switch t := s.instance.exports[word].(type) {
	case *valueType:
		return t
	case *resource:
		return newHandle(kindOwn, t)
	}
	panic(witError(s.instance.name + " has no type " + word))
}
