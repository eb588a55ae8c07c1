package actor

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"hash/fnv"
	"sync"

	"github.com/proscenium-dev/proscenium/handler"
	"github.com/proscenium-dev/proscenium/wit/canon"
)

// chainLength is how many events an actor can look back on.
const chainLength = 256

// A chain is what has happened to an actor, for itself: the last events, each
// hashed over the one before. The audit log is the record that others trust.
type chain struct {
	mu     sync.Mutex
	links  []link
	parent uint64 // of the next
	begun  bool
}

// A link is a meta-event of the WIT package.
type link struct {
	hash, parent uint64
	hasParent    bool
	kind         string
	data         []byte // JSON
}

// Record implements handler.Recorder.
func (c *chain) Record(e handler.Event) {
	data, err := json.Marshal(e)
	if err != nil {
		data = []byte("{}")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h := fnv.New64a()
	h.Write(binary.LittleEndian.AppendUint64(nil, c.parent))
	h.Write(data)
	l := link{hash: h.Sum64(), parent: c.parent, hasParent: c.begun, kind: string(e.Kind), data: data}
	c.parent, c.begun = l.hash, true
	if len(c.links) == chainLength {
		c.links = append(c.links[:0], c.links[1:]...)
	}
	c.links = append(c.links, l)
}

func (c *chain) snapshot() []link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]link(nil), c.links...)
}

// getChain is runtime.get-chain: func() -> chain. A meta-event takes 40 bytes:
// hash@0, event-type@8, parent@16 (value@24), data@32.
func (a *Actor) getChain(ctx context.Context, g *canon.Lowerer, s []uint64) {
	const size = 40
	ret := uint32(s[0])
	must(g.Memory.Area(ret, 8, 4))
	links := a.chain.snapshot()
	list, err := g.Alloc(ctx, uint32(size*len(links)), 8)
	must(err)
	records := make(canon.Record, size*len(links))
	for i, l := range links {
		r := records[size*i:]
		kind, kindLength, err := g.Bytes(ctx, []byte(l.kind))
		must(err)
		data, dataLength, err := g.Bytes(ctx, l.data)
		must(err)
		r.U64(0, l.hash)
		r.U32(8, kind)
		r.U32(12, kindLength)
		r.Bool(16, l.hasParent)
		r.U64(24, l.parent)
		r.U32(32, data)
		r.U32(36, dataLength)
	}
	if len(records) > 0 {
		must(g.Memory.Store(list, records))
	}
	r := make(canon.Record, 8)
	r.U32(0, list)
	r.U32(4, uint32(len(links)))
	must(g.Memory.Store(ret, r))
}
