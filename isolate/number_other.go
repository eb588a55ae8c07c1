//go:build !amd64

package isolate

import "golang.org/x/sys/unix"

// See number_amd64.go.
const sysFstatat = unix.SYS_FSTATAT
