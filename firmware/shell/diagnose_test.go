package shell_test

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/api/apitest"
	"github.com/culvert-fw/culvert/firmware/shell"
)

// doctor tells a cause only after it has watched.
type doctor struct {
	shell.Caller
	asked []api.DiagnoseParams
	knows bool // of the last attempt
}

func (d *doctor) Call(ctx context.Context, method string, params, result any) error {
	p, ok := params.(api.DiagnoseParams)
	if !ok {
		return d.Caller.Call(ctx, method, params, result)
	}
	d.asked = append(d.asked, p)
	answer := `{"name":"laptop","device":"192.168.1.100","settled":true,"cause":"up","text":"The cause."}`
	if !p.Watch && !d.knows {
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
	if len(d.asked) != 2 || d.asked[0] != want || !d.asked[1].Watch {
		t.Errorf("asked %+v", d.asked)
	}
	if _, out := run("diagnose vpn laptop 203.0.113.5 --json", false); !strings.HasPrefix(out, "{") {
		t.Errorf("%q", out)
	}
	if d, out := run("diagnose vpn laptop 203.0.113.5", true); len(d.asked) != 1 || out != "The cause.\n" {
		t.Errorf("%q after %+v", out, d.asked)
	}
	if d, _ := run("diagnose vpn laptop 203.0.113.5 live", true); len(d.asked) != 2 || !d.asked[1].Watch || d.asked[1].Protocol != "" {
		t.Errorf("live: %+v", d.asked)
	}
}
