// Command vuln looks for known vulnerabilities in what the product calls, with
// govulncheck. One that is called is a failure.
//
// Where the database that govulncheck asks by default cannot be reached, it
// says so and fails nothing: no check of a change could be passed there. A
// database that GOVULNDB names must be reached.
//
//	GOVULNDB=file:///path/of/database go run ./test/vuln ./cmd/...
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	scanner = "golang.org/x/vuln/cmd/govulncheck@v1.9.0"
	public  = "https://vuln.go.dev"

	patience = 20 * time.Second // with a database, of which nothing but its name is asked
)

func main() {
	flag.Parse()
	c := check{dir: ".", database: cmp.Or(os.Getenv("GOVULNDB"), public), required: os.Getenv("GOVULNDB") != "", packages: flag.Args()}
	if err := c.run(os.Stdout); err != nil {
		fmt.Fprintf(os.Stdout, "govulncheck: FAILED: %v\n", err)
		os.Exit(1)
	}
}

// A check is one run of the scanner.
type check struct {
	dir      string // of the module
	database string // https://, http:// or file://
	required bool   // whether the database must be reached
	packages []string
}

// run checks, and tells what it did.
func (c check) run(out io.Writer) error {
	if err := reach(c.database); err != nil {
		if c.required {
			return fmt.Errorf("the database %s, which GOVULNDB names, cannot be reached: %w", c.database, err)
		}
		fmt.Fprintf(out, "govulncheck: NOT CHECKED: the database %s cannot be reached from here, so nothing is known of vulnerabilities\n", c.database)
		return nil
	}
	cmd := exec.Command("go", append([]string{"run", scanner, "-db=" + c.database}, c.packages...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = c.dir, out, out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("see above: %w", err)
	}
	fmt.Fprintf(out, "govulncheck: checked %s against %s: nothing is called that is known to be vulnerable\n", strings.Join(c.packages, " "), c.database)
	return nil
}

// reach returns why nobody answers for a database. A folder is left to the
// scanner, which tells what is wrong with it.
func reach(database string) error {
	if strings.HasPrefix(database, "file:") {
		return nil
	}
	client := http.Client{Timeout: patience}
	answer, err := client.Get(strings.TrimRight(database, "/") + "/index/modules.json.gz")
	if err != nil {
		return err
	}
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}
