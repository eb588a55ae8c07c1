package isolate

import "golang.org/x/sys/unix"

// The one call that package unix names after the architecture.
const sysFstatat = unix.SYS_FSTATAT
