package component

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/proscenium-dev/proscenium/wit/wasm"
)

// A relay is a core module without code: it imports items from their owners and
// exports them under the names that a module wants.
type relay struct{ items []relayed }

type relayed struct {
	wanted wasm.Import
	from   coreItem
}

func (r *relay) add(wanted wasm.Import, from coreItem) error {
	for _, have := range r.items {
		if have.wanted.Name != wanted.Name {
			continue
		}
		if !bytes.Equal(have.wanted.Type, wanted.Type) {
			return fmt.Errorf("a core module imports %q of %q twice, as different types", wanted.Name, wanted.Module)
		}
		return nil
	}
	const most = 2000
	if r.items = append(r.items, relayed{wanted, from}); len(r.items) > most {
		return fmt.Errorf("a core module imports more than %d items of %q", most, wanted.Module)
	}
	return nil
}

// hostModule is the name of the module that has the trampolines.
const hostModule = "host"

// owner is the module and the name in it that a relay imports an item by.
func (i coreItem) owner() (module, name string) {
	if i.instance < 0 {
		return hostModule, strconv.Itoa(i.number)
	}
	return strconv.Itoa(i.instance), i.name
}

// encode makes the module. The types are those that the importer has: wazero
// compares them with what the owner exports.
func (r *relay) encode() []byte {
	var types, imports, exports [][]byte
	var count [wasm.Global + 1]int
	for _, item := range r.items {
		kind := item.wanted.Kind
		module, name := item.from.owner()
		typ := item.wanted.Type
		if kind == wasm.Function {
			types = append(types, typ)
			typ = number(len(types) - 1)
		}
		imports = append(imports, slices.Concat(text(module), text(name), []byte{byte(kind)}, typ))
		exports = append(exports, slices.Concat(text(item.wanted.Name), []byte{byte(kind)}, number(count[kind])))
		count[kind]++
	}
	const typeSection, importSection, exportSection = 1, 2, 7
	return slices.Concat([]byte("\x00asm\x01\x00\x00\x00"),
		section(typeSection, types), section(importSection, imports), section(exportSection, exports))
}

func number(n int) []byte { return binary.AppendUvarint(nil, uint64(n)) }

func text(s string) []byte { return append(number(len(s)), s...) }

func section(id byte, elements [][]byte) []byte {
	body := append(number(len(elements)), slices.Concat(elements...)...)
	return slices.Concat([]byte{id}, number(len(body)), body)
}
