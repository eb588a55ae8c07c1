package launcher

// step is called after each step of a start. Tests set it, to let the process
// die there.
var step = func(name string) {}
