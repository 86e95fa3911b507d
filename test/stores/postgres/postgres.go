// Package postgres starts Debian's PostgreSQL for tests, and tries whether
// credentials are good for it.
package postgres

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/lib/pq"
)

// Owner is the role that owns everything.
const Owner = "owner"

// A Server is one process of PostgreSQL with data of its own.
type Server struct {
	dir      string
	port     int
	password string
	db       *sql.DB // of the owner
}

// New starts a server on a port that is free, as the user postgres if the test
// runs as root, and installs it first if it must. It ends with the test.
func New(t testing.TB) *Server {
	t.Helper()
	return At(t, freePort(t))
}

// At is New for a port of 127.0.0.1.
func At(t testing.TB, port int) *Server {
	t.Helper()
	programs := find(t)
	dir, err := os.MkdirTemp("", "postgres") // of another user, and the path of a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &Server{dir: dir, port: port, password: rand.Text()}
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte(s.password), 0o600); err != nil {
		t.Fatal(err)
	}
	identity := owner(t, dir, filepath.Join(dir, "password"))
	initialise := exec.CommandContext(t.Context(), filepath.Join(programs, "initdb"),
		"-D", filepath.Join(dir, "data"), "-U", Owner, "-A", "scram-sha-256", "--pwfile", filepath.Join(dir, "password"), "-N")
	initialise.SysProcAttr, initialise.Dir = identity, dir
	if out, err := initialise.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	s.run(t, filepath.Join(programs, "postgres"), identity)
	if s.db, err = s.open(Owner, s.password); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.db.Close() })
	return s
}

func (s *Server) run(t testing.TB, program string, identity *syscall.SysProcAttr) {
	t.Helper()
	var log bytes.Buffer
	process := exec.Command(program, "-D", filepath.Join(s.dir, "data"), "-p", strconv.Itoa(s.port), "-h", "127.0.0.1", "-k", s.dir, "-F", "-N", "200")
	process.SysProcAttr, process.Dir = identity, s.dir
	process.Stdout, process.Stderr = &log, &log
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = process.Process.Signal(syscall.SIGQUIT) // at once
		_ = process.Wait()
	})
	deadline := time.After(20 * time.Second)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := s.Login(t.Context(), Owner, s.password)
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("PostgreSQL does not answer: %v", err)
		}
	}
}

// URL returns the address of the database, with place holders for the user and
// the password as OpenBao's database engine has them.
func (s *Server) URL() string {
	return fmt.Sprintf("postgresql://{{username}}:{{password}}@127.0.0.1:%d/postgres?sslmode=disable", s.port)
}

// Password returns the owner's password.
func (s *Server) Password() string { return s.password }

// Exec executes a statement as the owner.
func (s *Server) Exec(t testing.TB, statement string) {
	t.Helper()
	if _, err := s.db.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

// Login logs in, asks one question and leaves.
func (s *Server) Login(ctx context.Context, user, password string) error {
	db, err := s.open(user, password)
	if err != nil {
		return err
	}
	var one int
	err = db.QueryRowContext(ctx, "SELECT 1").Scan(&one)
	return errors.Join(err, db.Close())
}

// Refused reports whether err says that the credentials are not good, which is
// more than that the login failed.
func Refused(err error) bool {
	var answer *pq.Error
	return errors.As(err, &answer) && answer.Code.Class() == "28"
}

// Roles returns the roles that may log in, other than the owner.
func (s *Server) Roles(t testing.TB) []string {
	t.Helper()
	rows, err := s.db.QueryContext(context.WithoutCancel(t.Context()), "SELECT rolname FROM pg_roles WHERE rolcanlogin AND rolname <> $1", Owner)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var roles []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		roles = append(roles, name)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return roles
}

// open returns a database without connecting to it.
func (s *Server) open(user, password string) (*sql.DB, error) {
	address := url.URL{
		Scheme: "postgresql", User: url.UserPassword(user, password), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)), Path: "postgres",
		RawQuery: "sslmode=disable&connect_timeout=10",
	}
	connector, err := pq.NewConnector(address.String())
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxIdleConns(0) // no goroutine outlives its question
	return db, nil
}

// find returns the folder of the programs, after installing them if it must.
func find(t testing.TB) string {
	t.Helper()
	for range 2 {
		found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
		if err != nil {
			t.Fatal(err)
		}
		if len(found) > 0 {
			slices.Sort(found)
			return filepath.Dir(found[len(found)-1])
		}
		if os.Geteuid() != 0 {
			break
		}
		install(t)
	}
	t.Fatal("this machine lacks Debian's postgresql; install it as root")
	return ""
}

func install(t testing.TB) {
	t.Helper()
	for _, args := range []string{"update", "install -y --no-install-recommends postgresql"} {
		cmd := exec.CommandContext(t.Context(), "apt-get", append([]string{"-qq"}, strings.Fields(args)...)...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("apt-get %s: %v\n%s", args, err, out)
		}
	}
}

// owner gives the paths to the user that the server runs as, because it
// refuses to run as root, and returns how to run as that user.
func owner(t testing.TB, paths ...string) *syscall.SysProcAttr {
	t.Helper()
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		return attr
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, uidErr := strconv.Atoi(u.Uid)
	gid, gidErr := strconv.Atoi(u.Gid)
	if err := errors.Join(uidErr, gidErr); err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if err := os.Chown(path, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr
}

func freePort(t testing.TB) int {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	return lis.Addr().(*net.TCPAddr).Port
}
