package launcher

// SetStep has f called after each step of a start.
func SetStep(f func(name string)) { step = f }

// AwaitTemplates waits until no template is being made.
func (l *Launcher) AwaitTemplates() { l.profiles.makers.Wait() }
