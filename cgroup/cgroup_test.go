package cgroup

import (
	"testing"
)

func TestLeaf(t *testing.T) {
	g, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	}()
	l, err := g.New("a", Limits{})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(g.Layout(), l.Path(), l.Enforced())
	s, err := l.Stat()
	t.Logf("%+v %v", s, err)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
