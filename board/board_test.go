package board

import (
	"os"
	"strings"
	"testing"
)

func TestEveryBoardInTheTreeIsValid(t *testing.T) {
	all, err := List(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 2 {
		t.Fatalf("found %d boards, expected qemu-mips and qemu-mipsel at least", len(all))
	}
}

func TestParseReportsEveryProblem(t *testing.T) {
	_, err := Parse([]byte(`{"id":"a/b","ports":{"lan":["eth1"],"wan":"eth1"},"wifi":"yes","data":{}}`))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"id:", "name:", "arch.goarch:", "ram:", "ports.lan[0]:", "mac:", "console.device:", "data:", "wifi:", "cmdline:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no problem reported for %s in:\n%v", want, err)
		}
	}
}

func TestParseRefusesUnknownFields(t *testing.T) {
	if _, err := Parse([]byte(`{"watchdgo":true}`)); err == nil || !strings.Contains(err.Error(), "watchdgo") {
		t.Fatalf("misspelt field: got %v", err)
	}
}

func TestRouterCopyLeavesBuildPartOut(t *testing.T) {
	b, err := Load(os.DirFS("."), "qemu-mips")
	if err != nil {
		t.Fatal(err)
	}
	r := b.Router()
	if r.QEMU != nil || r.Image != nil || r.Kernel != "" {
		t.Errorf("build part still there: %+v", r)
	}
	if b.QEMU == nil || r.Ports.WAN != "eth1" {
		t.Errorf("original changed or router part lost")
	}
}
