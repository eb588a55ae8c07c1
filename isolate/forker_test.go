package isolate

import "testing"

// TestNoRequestForRoot: whatever made the plan, a program of a privileged host never
// gets the host's id 0.
func TestNoRequestForRoot(t *testing.T) {
	for _, ids := range [][2]int{{0, 0}, {0, 1}, {1, 0}} {
		p := Plan{privileged: true, uid: ids[0], gid: ids[1]}
		if _, err := p.ForkRequest(false, true); err == nil {
			t.Errorf("%d:%d was asked for", ids[0], ids[1])
		}
	}
	p := Plan{privileged: true, uid: 1, gid: 1}
	if _, err := p.ForkRequest(true, true); err != nil {
		t.Error(err)
	}
}

// TestBuffersEndWithAPage: of the largest that arm64 has, for munmap(2) and madvise(2).
func TestBuffersEndWithAPage(t *testing.T) {
	for _, at := range []int{BufferAddress, forkerBuffer, bufferEnd} {
		if at%(64<<10) != 0 {
			t.Errorf("%#x lies within a page", at)
		}
	}
}
