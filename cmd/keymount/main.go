// Command keymount is what a person types: it shows on any machine, without a
// cluster, what the driver does on a node.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "v0.0.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	root := &cobra.Command{
		Use:           "keymount",
		Short:         "Secrets as volumes",
		Long:          "keymount shows on any machine, without a cluster, what Keymount does on a node, and reads what it has written down there.",
		Version:       version + " " + runtime.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(tryCommand(), auditCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "keymount: %v\n", err)
		os.Exit(1)
	}
}
