// Package mlog has those functions of monis.app/mlog that the upstream driver
// calls, written over klog: not every module proxy serves the original. It
// always logs as text, at the level of klog's own flags.
package mlog

import (
	"context"

	"k8s.io/klog/v2"
)

// A LogFormat is how log lines look.
type LogFormat string

// The formats that the driver chooses from.
const (
	FormatText LogFormat = "text"
	FormatJSON LogFormat = "json"
)

// Setup returns what to call at the end of the program.
func Setup() func() { return klog.Flush }

// ValidateAndSetKlogLevelAndFormatGlobally accepts every level and format.
func ValidateAndSetKlogLevelAndFormatGlobally(context.Context, klog.Level, LogFormat) error {
	return nil
}

// Error logs an error.
func Error(message string, err error, keysAndValues ...any) {
	klog.ErrorSDepth(1, err, message, keysAndValues...)
}

// Fatal logs an error and ends the program.
func Fatal(err error) { klog.FatalDepth(1, err) }
