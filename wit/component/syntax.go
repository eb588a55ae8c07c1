package component

// The syntax of a component, as it stands in the file: definitions in their
// order, which refer to earlier ones by their numbers. What they mean is the
// linker's to find out.

// A sort is what a number counts.
type sort byte

const (
	sortCore sort = iota // with a coreSort
	sortFunc
	sortValue
	sortType
	sortComponent
	sortInstance
)

func (s sort) String() string {
	return name(byte(s), "core item", "function", "value", "type", "component", "instance")
}

type coreSort byte

const (
	coreFunc     coreSort = 0x00
	coreTable    coreSort = 0x01
	coreMemory   coreSort = 0x02
	coreGlobal   coreSort = 0x03
	coreType     coreSort = 0x10
	coreModule   coreSort = 0x11
	coreInstance coreSort = 0x12
)

// A reference is a number and what it counts.
type reference struct {
	sort  sort
	core  coreSort
	index uint32
}

type namedReference struct {
	name string
	reference
}

// A component is a list of definitions.
type component struct{ definitions []any }

// Definitions.
type (
	moduleDef         []byte // a core module
	coreInstantiation struct {
		module uint32
		args   []namedReference // core instances
	}
	coreBundle    []namedReference // an instance made of core items
	instantiation struct {
		component uint32
		args      []namedReference
	}
	bundle   []namedReference // an instance made of items
	aliasDef struct {
		reference        // without index, but for outer
		target    target // where it is
		of        uint32 // the instance; of outer, how many components up
		name      string
	}
	liftDef struct {
		function, typ uint32
		options       options
	}
	lowerDef struct {
		function uint32
		options  options
	}
	resourceFunc struct { // resource.new, drop and rep
		what string
		typ  uint32
	}
	importDef struct {
		name string
		description
	}
	exportDef struct {
		name string
		reference
		as *description // nil: as it is
	}
)

type target byte

const (
	targetExport target = iota
	targetCoreExport
	targetOuter
)

// options are canonical options, by index. The encoding is UTF-8.
type options struct {
	memory, realloc, post *uint32
}

// A description says of what kind and type an import or export is.
type description struct {
	sort  sort
	index uint32 // the type, but for a resource
	fresh bool   // of a type: any resource
}

// Types. Those of values refer to others by number or are primitive.
type (
	valueRef struct {
		kind  kind // if primitive
		index uint32
		which refKind
	}
	valueDef struct {
		kind   kind
		labels []string
		parts  []valueRef
		index  uint32 // of own and borrow: the resource
	}
	functionDef struct {
		names  []string
		params []valueRef
		result valueRef
	}
	instanceType []any // definitions: types, aliases, and exportTypes
	exportType   struct {
		name string
		description
	}
	resourceDef struct{}
)

type refKind byte

const (
	refNone refKind = iota
	refPrimitive
	refIndex
)
