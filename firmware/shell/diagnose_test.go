package shell_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/api/apitest"
	"github.com/culvert-fw/culvert/firmware/shell"
)

// doctor tells a cause only after it has watched.
type doctor struct {
	shell.Caller
	asked   []api.DiagnoseParams
	watched int
	knows   bool // of the last attempt
}

const theCause = `{"name":"laptop","device":"192.168.1.100","settled":true,"cause":"up","text":"The cause."}`

// Stream tells the cause of a new attempt.
func (d *doctor) Stream(_ context.Context, method string, _ any, each func(json.RawMessage) error) error {
	if method != api.MethodDiagnoseWatch {
		return errors.New(method)
	}
	d.watched++
	return errors.Join(each(json.RawMessage(`{}`)), each(json.RawMessage(`{"found":`+theCause+`}`)))
}

func (d *doctor) Call(ctx context.Context, method string, params, result any) error {
	p, ok := params.(api.DiagnoseParams)
	if !ok {
		return d.Caller.Call(ctx, method, params, result)
	}
	d.asked = append(d.asked, p)
	answer := theCause
	if !d.knows {
		answer = `{"name":"laptop","device":"192.168.1.100","cause":"unknown","text":"Nothing yet.","fix":"Start it.","hints":["Perhaps."]}`
	}
	return json.Unmarshal([]byte(answer), result)
}

// TestDiagnoseWatches: when the last attempt does not tell, the person is asked
// for a new one; who wants JSON gets nothing else.
func TestDiagnoseWatches(t *testing.T) {
	n := apitest.New(t)
	n.Start(t)
	run := func(line string, knows bool) (*doctor, string) {
		var out bytes.Buffer
		o := options(n)
		d := &doctor{Caller: o.API, knows: knows}
		o.API, o.Stdout, o.Stderr = d, &out, &out
		if code := shell.New(o).Exec(context.Background(), line); code != 0 {
			t.Fatalf("%s: status %d: %s", line, code, &out)
		}
		return d, out.String()
	}
	d, out := run("diagnose vpn laptop 203.0.113.5 PPTP", false)
	if out != "Now start the VPN on laptop; watching for up to 30 s. Ctrl-C ends it.\nThe cause.\n" {
		t.Errorf("%q", out)
	}
	want := api.DiagnoseParams{Device: "laptop", Server: ip("203.0.113.5"), Protocol: "pptp"}
	if len(d.asked) != 1 || d.asked[0] != want || d.watched != 1 {
		t.Errorf("asked %+v, watched %d times", d.asked, d.watched)
	}
	if _, out := run("diagnose vpn laptop 203.0.113.5 --json", false); !strings.HasPrefix(out, "{") {
		t.Errorf("%q", out)
	}
	if d, out := run("diagnose vpn laptop 203.0.113.5", true); len(d.asked) != 1 || d.watched != 0 || out != "The cause.\n" {
		t.Errorf("%q after %+v", out, d.asked)
	}
	if d, _ := run("diagnose vpn laptop 203.0.113.5 live", true); d.watched != 1 || d.asked[0].Protocol != "" {
		t.Errorf("live: %+v", d.asked)
	}
}
