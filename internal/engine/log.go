package engine

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/log/tag"
)

// serverLog carries the server's log lines to slog. What the server calls information is debugging
// for castellan. During shutdown the services complain about each other's absence: that is silenced.
type serverLog struct {
	logger *slog.Logger
	quiet  *atomic.Bool
}

func (l serverLog) write(level slog.Level, message string, tags []tag.Tag) {
	if l.quiet.Load() || !l.logger.Enabled(context.Background(), level) {
		return
	}
	l.logger.LogAttrs(context.Background(), level, message, attributes(tags)...)
}

func attributes(tags []tag.Tag) []slog.Attr {
	attrs := make([]slog.Attr, 0, len(tags))
	for _, t := range tags {
		attrs = append(attrs, slog.Any(t.Key(), t.Value()))
	}
	return attrs
}

// Debug implements log.Logger; the server's debugging output is dropped.
func (l serverLog) Debug(string, ...tag.Tag) {}

// Info implements log.Logger.
func (l serverLog) Info(message string, tags ...tag.Tag) { l.write(slog.LevelDebug, message, tags) }

// Warn implements log.Logger.
func (l serverLog) Warn(message string, tags ...tag.Tag) {
	level := slog.LevelWarn
	if strings.HasPrefix(message, "HTTP API port has not been set") {
		level = slog.LevelDebug // it is not set on purpose: one port less
	}
	l.write(level, message, tags)
}

// Error implements log.Logger.
func (l serverLog) Error(message string, tags ...tag.Tag) { l.write(slog.LevelError, message, tags) }

// DPanic implements log.Logger.
func (l serverLog) DPanic(message string, tags ...tag.Tag) { l.Error(message, tags...) }

// Panic implements log.Logger.
func (l serverLog) Panic(message string, tags ...tag.Tag) { l.Fatal(message, tags...) }

// fatal is what the server's fatal messages panic with, so that a failed start can be told from a bug.
type fatal string

// Fatal implements log.Logger. The server cannot go on after it. During a start the panic becomes
// an error; later it ends the process, whose state on disk is complete at any moment.
func (l serverLog) Fatal(message string, tags ...tag.Tag) {
	l.write(slog.LevelError, message, tags)
	panic(fatal(fmt.Sprintf("embedded engine: %s %v", message, attributes(tags))))
}

// With implements log.WithLogger.
func (l serverLog) With(tags ...tag.Tag) log.Logger {
	args := make([]any, 0, len(tags))
	for _, attr := range attributes(tags) {
		args = append(args, attr)
	}
	return serverLog{logger: l.logger.With(args...), quiet: l.quiet}
}
