package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/test/bench/stat"
)

// measured returns results in which Keymount takes 1 ms for everything, the
// upstream driver ten times and the floor half as long.
func measured() *results {
	three := trio{Ours: stat.Samples{time.Millisecond}, Upstream: stat.Samples{10 * time.Millisecond}, Floor: stat.Samples{500 * time.Microsecond}}
	r := &results{Settings: quick(), Machine: machine{CPUs: 2, Processor: "P", Arch: "amd64", Linux: "6.18", Memory: 24 << 30}}
	r.Built = built{Ours: "v9.9.9", Upstream: "v1.6.0", Kubernetes: "v1.36.3", Go: "go1.26.8", Programs: []binary{{"keymount-driver", 30 << 20, 10 << 20}}}
	for _, l := range loads() {
		for _, op := range l.operations() {
			r.Cells = append(r.Cells, cell{op, l.files, l.latency, l.callers, three})
		}
	}
	for _, files := range sizes() {
		r.Cells = append(r.Cells, cell{opRotate, files, 0, 1, three})
	}
	r.Bursts = []burst{{Accounts: 10, Ours: three.Ours, Upstream: three.Upstream, OurCalls: 10, UpCall: 100}}
	r.Steady = []steady{{Driver: ourName, Calls: 300, Requests: requests{}}, {Driver: upstreamName, Calls: 4800, Requests: requests{"POST": 4800, "PUT": 4800}}}
	r.Starts = starts{three, three}
	r.Providers = memory{RSS: 10 << 20}
	for name, size := range map[string]int64{ourName: 20 << 20, upstreamName: 60 << 20} {
		g := growth{Driver: name, Empty: memory{RSS: size}, Crowded: memory{RSS: size}}
		for _, n := range r.Settings.Volumes {
			g.Volumes = append(g.Volumes, stage{n, three.Ours, memory{RSS: size}})
		}
		for _, n := range r.Settings.Classes {
			g.Classes = append(g.Classes, stage{n, three.Ours, memory{RSS: size + int64(n)<<10}})
		}
		g.fit()
		r.Growth = append(r.Growth, g)
	}
	if r.Growth[0].Driver != ourName {
		r.Growth[0], r.Growth[1] = r.Growth[1], r.Growth[0]
	}
	r.Costs = []cost{
		{costLife, three.Ours, 800 * time.Microsecond, 4 * time.Millisecond, []part{{partFiles, .5}, {partGRPC, .25}, {partOwn, .25}}},
		{costRepublish, three.Ours, 200 * time.Microsecond, 200 * time.Microsecond, []part{{partSockets, 1}}},
	}
	starts := func(took time.Duration) podStarts {
		return podStarts{
			Single: stat.Samples{took, 2 * took}, Burst: stat.Samples{10 * took, 40 * took, 20 * took, 30 * took},
			Last: stat.Samples{40 * took, 50 * took}, Calls: []int{2, 4}, CPU: stat.Samples{took},
		}
	}
	r.Pods = pods{
		ourName:      {noVolume: starts(200 * time.Millisecond), emptyDir: starts(500 * time.Millisecond), driverVolume: starts(510 * time.Millisecond)},
		upstreamName: {noVolume: starts(200 * time.Millisecond), emptyDir: starts(505 * time.Millisecond), driverVolume: starts(535 * time.Millisecond)},
	}
	return r
}

func TestAimsThatAreReachedAreHeld(t *testing.T) {
	for _, a := range measured().aims() {
		if !a.Held || a.Measured == "" {
			t.Errorf("%s: held %v, measured %q, want held", a.What, a.Held, a.Measured)
		}
	}
}

func TestAMissedAimIsTold(t *testing.T) {
	slowest := trio{Ours: stat.Samples{5 * time.Millisecond}, Upstream: stat.Samples{10 * time.Millisecond}, Floor: stat.Samples{time.Millisecond}}
	for _, c := range []struct {
		name   string
		change func(*results)
		want   []string // beginnings of the aims that are missed
	}{
		{"one number of files", func(r *results) { r.set(opPublish, 20, slowest) }, []string{"publish: at most 3 x", "publish: at least 8 x"}},
		{"republish", func(r *results) { r.set(opRepublish, 1, slowest) }, []string{"republish when nothing is due"}},
		{"one write", func(r *results) { r.Steady[0].Requests["PATCH"] = 1 }, []string{"steady state: no API writes"}},
		{"more calls", func(r *results) { r.Steady[0].Calls = 600 }, []string{"steady state: only the coalesced"}},
		{"memory", func(r *results) { r.Providers.RSS = 11 << 20 }, []string{"RSS of driver and providers with 110", "RSS of driver and providers with 300"}},
	} {
		r := measured()
		c.change(r)
		var missed []string
		for _, a := range r.aims() {
			if !a.Held {
				missed = append(missed, a.What)
			}
		}
		if !cmp.Equal(missed, c.want, cmp.Comparer(func(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) })) {
			t.Errorf("%s: missed %q, want %q", c.name, missed, c.want)
		}
		page := string(r.page())
		for _, aim := range missed {
			if !strings.Contains(page, "\n- Missed, "+aim+": ") {
				t.Errorf("%s: the page does not say why %q was missed", c.name, aim)
			}
		}
	}
}

func (r *results) set(op string, files int, t trio) {
	for i, c := range r.Cells {
		if c.Operation == op && c.Files == files {
			r.Cells[i].Took = t
		}
	}
}

func TestAMissIsExplainedByAProfile(t *testing.T) {
	page := spaces.ReplaceAllString(string(measured().page()), " ")
	for _, want := range []string{
		"| system calls for mounts and files | 400 µs | 50 % | - | 0 % |",
		"| Keymount | 800 µs | | 200 µs | |", "| upstream | 4000 µs | | 200 µs | |",
		"The same republish takes 1000 µs after a pause and 1000 µs without; a publish and an unpublish, which work on after the reply, 2000 µs and 1000 µs.",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	const want = "publish and unpublish takes 800 µs of CPU time, of which 200 µs is code of Keymount's own, 400 µs system calls for mounts and files, and 200 µs gRPC; the upstream driver takes 4000 µs"
	if got := measured().whatCosts(costLife); !strings.Contains(got, want) {
		t.Errorf("a miss is explained by %q, want %q", got, want)
	}
}

var row = regexp.MustCompile(`(?m)^\|.*\|$`)

func TestThePageIsTablesOfNumbers(t *testing.T) {
	r := measured()
	page := string(r.page())
	for _, want := range []string{"Keymount v9.9.9", "driver v1.6.0", "2 CPUs (P, amd64), 24 GiB", "`make bench-peers QUICK=1 E2E=1`", "POST 4800, PUT 4800"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	checkPage(t, r)
}

func TestPodsInAClusterAreComparedWithAnEmptyDir(t *testing.T) {
	page := string(measured().page())
	for _, want := range []string{
		"| Keymount | no volume | 200.0 ms | 400.0 ms | -300.0 ms | 4.00 s | 8.00 s | -6.00 s | 8.00 s | -12.00 s | 200.0 ms | - |",
		"| Keymount | an emptyDir | 500.0 ms | 1.00 s | - | 10.00 s | 20.00 s | - | 20.00 s | - | 500.0 ms | - |",
		"| Keymount | its volume | 510.0 ms | 1.02 s | +10.0 ms | 10.20 s | 20.40 s | +200.0 ms | 20.40 s | +400.0 ms | 510.0 ms | 4 |",
		"| upstream | its volume | 535.0 ms | 1.07 s | +30.0 ms | 10.70 s | 21.40 s | +600.0 ms | 21.40 s | +1.20 s | 535.0 ms | 4 |",
		"| upstream / Keymount | of what is more | | | 3.0 | | | 3.0 | | 3.0 | 1.0 | |",
		"each 2 times", "1 of each kind, which alternate, and then 2 of each kind at once",
	} {
		if !strings.Contains(spaces.ReplaceAllString(page, " "), want) {
			t.Errorf("the page does not say %q", want)
		}
	}
}

func TestADifferenceThatIsAnAccidentHasNoRatio(t *testing.T) {
	for _, c := range []struct {
		ours, ourEmpty, upstream, upstreamEmpty time.Duration
		want                                    string
	}{
		{510, 500, 530, 505, "2.5"},
		{505, 500, 530, 505, "-"}, // no more than the emptyDirs differ
		{490, 500, 530, 500, "-"},
		{510, 500, 500, 500, "-"},
	} {
		p := pods{
			ourName:      {emptyDir: {Single: stat.Samples{c.ourEmpty}}, driverVolume: {Single: stat.Samples{c.ours}}},
			upstreamName: {emptyDir: {Single: stat.Samples{c.upstreamEmpty}}, driverVolume: {Single: stat.Samples{c.upstream}}},
		}
		if got := p.ratios()[0]; got != c.want {
			t.Errorf("ratio of %+v = %q, want %q", c, got, c.want)
		}
	}
}

var spaces = regexp.MustCompile(`\s+`)

func TestAPageWithoutPodsSaysHowToMeasureThem(t *testing.T) {
	r := measured()
	r.Pods = nil
	page := string(r.page())
	if !strings.Contains(page, "Not measured in this run: `make bench-peers E2E=1`") || strings.Contains(page, podsPlot) {
		t.Error("the page does not say that pods were not measured, or shows them")
	}
	if !strings.Contains(page, "`make bench-peers QUICK=1`") {
		t.Error("the page names another command")
	}
	checkPage(t, r)
}

func TestSamplesOfEveryKindOfPodsAreNeeded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pods.json")
	write := func(all pods) {
		text, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := measured().Pods
	write(want)
	if got, err := readPods(file); err != nil || !cmp.Equal(got, want) {
		t.Errorf("readPods = %v, %v, want %v", got, err, want)
	}
	delete(want[upstreamName], driverVolume)
	write(want)
	if _, err := readPods(file); err == nil || !strings.Contains(err.Error(), `driver "upstream" and pods of the kind "volume"`) {
		t.Errorf("without a volume of upstream: %v", err)
	}
}

// checkPage checks what every page must have: tables in order, and the plots.
func checkPage(t *testing.T, r *results) {
	t.Helper()
	page := string(r.page())
	for _, wrong := range []string{"%!", "NaN", "Inf", "-1.0"} {
		if strings.Contains(page, wrong) {
			t.Errorf("the page has %q", wrong)
		}
	}
	columns := 0
	for i, line := range strings.Split(page, "\n") {
		cells := strings.Count(line, "|")
		switch {
		case !row.MatchString(line):
			columns = 0
		case columns == 0:
			columns = cells
		case cells != columns:
			t.Errorf("line %d has %d cells, want %d: %s", i+1, cells-1, columns-1, line)
		}
	}
	for name, picture := range r.plots() {
		if !strings.Contains(page, "]("+name+")") {
			t.Errorf("the page does not show %s", name)
		}
		if err := wellFormed(picture); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func wellFormed(picture []byte) error {
	for d := xml.NewDecoder(bytes.NewReader(picture)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func TestSavedResultsGiveTheSamePage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results.json")
	before := measured()
	if err := before.save(file); err != nil {
		t.Fatal(err)
	}
	after, err := read(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(before.page()), string(after.page())); diff != "" {
		t.Errorf("the page (-before +after):\n%s", diff)
	}
}
