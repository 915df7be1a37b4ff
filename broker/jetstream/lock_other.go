//go:build !unix

package jetstream

// lockDir does nothing where there is no flock: that only one server uses the
// folder is up to the operator.
func lockDir(string) (unlock func(), err error) { return func() {}, nil }
