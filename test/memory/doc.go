// Package memory searches the memory of the driver and of a provider for
// secrets that they no longer need. Both run as they are released.
package memory
