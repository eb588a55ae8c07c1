package component

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/proscenium-dev/proscenium/wit/canon"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
)

// A HostFunction is what a component imports. g is the memory that the caller's
// canonical options name, with its realloc; the parameters are on the stack as
// the ABI lowers them, and so is the result.
type HostFunction func(ctx context.Context, g *canon.Lowerer, stack []uint64)

// A Host is what components may import, and which of their exports are known.
type Host struct {
	// Memory is how many bytes the memories of an instance of a component may
	// begin with, all together. What they have later is for the Allocator to bound;
	// nil is the engine's, which does not.
	Memory    uint64
	Allocator experimental.MemoryAllocator
	// Realloc makes the function through which a guest's realloc is called.
	Realloc func(api.Function) canon.Realloc

	imports, exports map[string]*instance
	drops            map[*resource]HostFunction
}

// drop begins the name of a function that drops a resource of the interface.
const drop = "[resource-drop]"

// Import adds interfaces, as WIT text, with the functions that carry them out,
// by interface and name. Functions of the text that have none are not there. It
// is an error if the text lacks one.
func (h *Host) Import(text string, functions map[string]map[string]HostFunction) error {
	if h.imports == nil {
		h.imports, h.drops = map[string]*instance{}, map[*resource]HostFunction{}
	}
	all, err := parseWIT(text)
	if err != nil {
		return err
	}
	for iface, offered := range functions {
		i, ok := all[iface]
		if !ok {
			return fmt.Errorf("there is no interface %s", iface)
		}
		for name, f := range offered {
			switch item := i.exports[strings.TrimPrefix(name, drop)].(type) {
			case *resource:
				h.drops[item] = f
			case *function:
				item.host = f
			default:
				return fmt.Errorf("interface %s has no %s", iface, name)
			}
		}
	}
	for name, i := range all {
		maps.DeleteFunc(i.exports, func(_ string, item any) bool {
			f, ok := item.(*function)
			return ok && f.host == nil
		})
		h.imports[name] = i
	}
	return nil
}

// Refuse makes components load that import of an interface what the host does
// not have. A call of it is an error that names it.
func (h *Host) Refuse(names ...string) {
	for _, name := range names {
		if h.imports[name] == nil {
			h.imports[name] = &instance{name: name, exports: map[string]any{}}
		}
		h.imports[name].denied = true
	}
}

// Export adds interfaces, as WIT text, that components may export.
func (h *Host) Export(text string) (err error) {
	h.exports, err = parseWIT(text)
	return err
}

// find is an interface for a component to import. Every 0.2 of WASI is one.
func (h *Host) find(name string) (*instance, bool) {
	if at := strings.Index(name, "@0.2."); at >= 0 && strings.HasPrefix(name, "wasi:") {
		name = name[:at] + "@0.2"
	}
	i, ok := h.imports[name]
	if ok && i.denied {
		i = &instance{i.name, maps.Clone(i.exports), true} // it grows
	}
	return i, ok
}
