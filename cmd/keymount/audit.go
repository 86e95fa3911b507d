package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/keymount/keymount/pkg/audit"
)

func auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "Read audit logs of drivers",
		Long:  "Reads audit logs, which keymount-driver writes with --audit-log. Name the parts of one log in their order, the oldest first.",
	}
	cmd.AddCommand(verifyCommand(), showCommand())
	return cmd
}

func verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify FILE...",
		Short: "Say whether a log is as it was written",
		Long:  "Reads a log and names the first line that was altered, is missing or is in the wrong place. Exits with 0 if there is none.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			summary, err := read(files, nil)
			if err == nil {
				fmt.Fprintf(cmd.OutOrStdout(), "%d events, %d to %d: whole\n", summary.Lines, summary.First, summary.Last)
			}
			return err
		},
	}
}

func showCommand() *cobra.Command {
	var f filter
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show FILE...",
		Short: "List events of a log",
		Long:  "Lists the events of a log that all of the flags fit, and verifies it as verify does.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			if err := f.parse(); err != nil {
				return err
			}
			out := bufio.NewWriter(cmd.OutOrStdout())
			_, err := read(files, func(e audit.Event) error {
				if !f.fits(e) {
					return nil
				}
				return print(out, e, asJSON)
			})
			return errors.Join(err, out.Flush())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.pod, "pod", "", "namespace/name of a pod, or namespace/ for all of a namespace")
	flags.StringVar(&f.class, "class", "", "namespace/name of a class")
	flags.StringVar(&f.object, "object", "", "ID of an object")
	flags.StringVar(&f.event, "event", "", "kind of event, such as fetch")
	flags.StringVar(&f.since, "since", "", "time (RFC 3339) from which on to list")
	flags.StringVar(&f.until, "until", "", "time (RFC 3339) before which to list")
	flags.BoolVar(&asJSON, "json", false, "list events as they are in the log")
	return cmd
}

// read verifies a log, of which the files are the parts.
func read(files []string, each func(audit.Event) error) (audit.Summary, error) {
	var parts []io.Reader
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return audit.Summary{}, err
		}
		defer f.Close()
		parts = append(parts, f)
	}
	summary, err := audit.Verify(io.MultiReader(parts...), each)
	var fault *audit.Fault
	if errors.As(err, &fault) {
		return summary, locate(files, fault)
	}
	return summary, err
}

// locate says in which file a line is.
func locate(files []string, fault *audit.Fault) error {
	left := fault.Line
	for i, name := range files {
		lines, err := count(name)
		if err != nil {
			return err
		}
		if left <= lines || i == len(files)-1 {
			return fmt.Errorf("%s: line %d: %s", name, left, fault.Reason)
		}
		left -= lines
	}
	return fault
}

// count returns how many lines a file has.
func count(name string) (lines int64, err error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for reader := bufio.NewReader(f); ; {
		part, err := reader.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return lines, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil:
			return lines, err
		case len(part) > 0:
			lines++
		}
	}
}

// A filter says which events to list; what is empty fits all.
type filter struct {
	pod, class, object, event, since, until string

	from, to time.Time
}

func (f *filter) parse() (err error) {
	for _, limit := range []struct {
		flag, text string
		into       *time.Time
	}{{"since", f.since, &f.from}, {"until", f.until, &f.to}} {
		if limit.text == "" {
			continue
		}
		if *limit.into, err = time.Parse(time.RFC3339, limit.text); err != nil {
			return fmt.Errorf("--%s is %q: want a time such as 2026-01-31T12:00:00Z", limit.flag, limit.text)
		}
	}
	return nil
}

func (f *filter) fits(e audit.Event) bool {
	switch {
	case f.pod != "" && !f.fitsPod(e),
		f.class != "" && e.Class != f.class,
		f.event != "" && string(e.Event) != f.event,
		f.object != "" && !slices.ContainsFunc(e.Objects, func(o audit.Object) bool { return o.ID == f.object }),
		!f.from.IsZero() && e.Time.Before(f.from),
		!f.to.IsZero() && !e.Time.Before(f.to):
		return false
	}
	return true
}

func (f *filter) fitsPod(e audit.Event) bool {
	if e.Pod == nil {
		return false
	}
	name := e.Pod.Namespace + "/" + e.Pod.Name
	return name == f.pod || strings.HasSuffix(f.pod, "/") && strings.HasPrefix(name, f.pod)
}

// print writes an event for people, or as it is.
func print(to io.Writer, e audit.Event, asJSON bool) error {
	if asJSON {
		line, err := json.Marshal(&e)
		if err == nil {
			_, err = fmt.Fprintf(to, "%s\n", line)
		}
		return err
	}
	words := []string{e.Time.Format(time.RFC3339), string(e.Event), string(e.Decision)}
	if e.Pod != nil {
		words = append(words, "pod="+e.Pod.Namespace+"/"+e.Pod.Name, "account="+e.Pod.ServiceAccount)
	}
	for _, field := range [][2]string{{"class", e.Class}, {"provider", e.Provider}, {"source", string(e.Source)}, {"lease", e.Lease}, {"reason", e.Reason}} {
		if field[1] != "" {
			words = append(words, field[0]+"="+field[1])
		}
	}
	for _, o := range e.Objects {
		words = append(words, fmt.Sprintf("%s@%s", o.ID, o.Version))
	}
	if e.Message != "" {
		words = append(words, fmt.Sprintf("%q", e.Message))
	}
	_, err := fmt.Fprintln(to, strings.Map(visible, strings.Join(words, " ")))
	return err
}

// visible returns the character, or a mark for one that a terminal would obey.
func visible(r rune) rune {
	if !unicode.IsPrint(r) {
		return '?'
	}
	return r
}
