package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/proscenium-dev/proscenium/cgroup"
	"github.com/proscenium-dev/proscenium/handler"
)

// parseIO reads DEVICE,read=SIZE,write=SIZE,read-ops=N,write-ops=N.
func parseIO(text string) (cgroup.IOLimit, error) {
	device, rest, _ := strings.Cut(text, ",")
	l := cgroup.IOLimit{Device: device}
	rates := map[string]*int64{"read": &l.Read, "write": &l.Write, "read-ops": &l.ReadOps, "write-ops": &l.WriteOps}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, _ := strings.Cut(part, "=")
		rate, ok := rates[name]
		if !ok || *rate != 0 {
			return l, fmt.Errorf("%q is not one of read=, write=, read-ops= and write-ops=, each once", part)
		}
		var err error
		if strings.HasSuffix(name, "-ops") {
			*rate, err = strconv.ParseInt(value, 10, 64)
		} else {
			*rate, err = handler.ParseSize(value)
		}
		if err == nil && *rate <= 0 {
			err = errors.New("must be more than 0")
		}
		if err != nil {
			return l, fmt.Errorf("%s: %w", name, err)
		}
	}
	return l, nil
}
