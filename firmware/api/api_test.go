package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
)

type pair struct{ A, B int }

// parcel has a body.
type parcel struct {
	Name string
	body []byte
}

func (p parcel) GetBody() []byte   { return p.body }
func (p *parcel) SetBody(b []byte) { p.body = b }

func serve(t testing.TB, path string, allow func(uint32) bool) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ln, err := api.Listen(ctx, path, os.Getgid())
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	hung := make(chan struct{}, 1)
	go func() {
		defer close(done)
		err := api.Serve(ctx, ln, api.Options{
			Allow: allow,
			Log:   slog.New(slog.DiscardHandler),
			Handlers: map[string]api.Handler{
				"add":    api.Handle(func(_ context.Context, _ api.Peer, p pair) (int, error) { return p.A + p.B, nil }),
				"echo":   api.Handle(func(_ context.Context, _ api.Peer, s string) (string, error) { return s, nil }),
				"parcel": api.Handle(func(_ context.Context, _ api.Peer, p parcel) (string, error) { return p.Name + string(p.body), nil }),
				"who":    api.Handle(func(_ context.Context, p api.Peer, _ struct{}) (api.Peer, error) { return p, nil }),
				"none":   api.Handle(func(context.Context, api.Peer, struct{}) (any, error) { return nil, nil }),
				"panic":  api.Handle(func(context.Context, api.Peer, struct{}) (int, error) { panic("a bug") }),
				"bad": api.Handle(func(context.Context, api.Peer, struct{}) (int, error) {
					return 0, fmt.Errorf("commit: %w", settings.Problems{{Path: "lan address", Value: "x", Text: "not an address"}})
				}),
				"conflict": api.Handle(func(context.Context, api.Peer, struct{}) (int, error) {
					return 0, &api.Error{Code: "conflict", Text: "changed", Changed: []string{"+ set x"}, By: "serial"}
				}),
				"hang": api.Handle(func(ctx context.Context, _ api.Peer, _ struct{}) (int, error) {
					<-ctx.Done()
					hung <- struct{}{}
					return 0, ctx.Err()
				}),
				"hung": api.Handle(func(ctx context.Context, _ api.Peer, _ struct{}) (int, error) {
					select {
					case <-hung:
						return 1, nil
					case <-ctx.Done():
						return 0, ctx.Err()
					}
				}),
			},
			Streams: map[string]api.StreamHandler{
				"count": api.HandleStream(func(_ context.Context, _ api.Peer, n int, send func(int) error) error {
					for i := range n {
						if err := send(i); err != nil {
							return err
						}
					}
					return nil
				}),
				"forever": api.HandleStream(func(ctx context.Context, _ api.Peer, _ struct{}, send func(int) error) error {
					send(1) //nolint:errcheck // ends with ctx
					<-ctx.Done()
					return ctx.Err()
				}),
			},
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func myself(uid uint32) bool { return uid == uint32(os.Getuid()) }

func start(t testing.TB) *api.Client {
	path := filepath.Join(t.TempDir(), "s")
	serve(t, path, myself)
	return api.NewClient(path)
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestCall(t *testing.T) {
	c, ctx := start(t), within(t)
	var sum int
	if err := c.Call(ctx, "add", pair{2, 3}, &sum); err != nil || sum != 5 {
		t.Errorf("add: %d, %v", sum, err)
	}
	if err := c.Call(ctx, "none", nil, nil); err != nil {
		t.Errorf("none: %v", err)
	}
	var p api.Peer
	if err := c.Call(ctx, "who", nil, &p); err != nil || p.UID != uint32(os.Getuid()) || int(p.PID) != os.Getpid() {
		t.Errorf("who: %+v, %v", p, err)
	}
	big := strings.Repeat("x", 2<<20) // settings with 10,000 forwards are smaller
	var back string
	if err := c.Call(ctx, "echo", big, &back); err != nil || back != big {
		t.Errorf("a request of 2 MB: %d bytes back, %v", len(back), err)
	}
	if err := c.Call(ctx, "echo", strings.Repeat("x", api.MaxLine), &back); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a request that is too long: %v", err)
	}
}

func TestErrors(t *testing.T) {
	c, ctx := start(t), within(t)
	for _, w := range []struct{ method, code string }{
		{"nonsense", "unknown"}, {"bad", "invalid"}, {"conflict", "conflict"}, {"panic", "failed"},
	} {
		var e *api.Error
		if err := c.Call(ctx, w.method, nil, nil); !errors.As(err, &e) || e.Code != w.code {
			t.Errorf("%s: %v, want code %s", w.method, err, w.code)
		}
		switch w.code {
		case "invalid":
			if len(e.Problems) != 1 || e.Problems[0].Path != "lan address" {
				t.Errorf("problems: %+v", e.Problems)
			}
		case "conflict":
			if e.By != "serial" || len(e.Changed) != 1 {
				t.Errorf("conflict: %+v", e)
			}
		}
	}
	var e *api.Error
	if err := c.Call(ctx, "add", "not a pair", nil); !errors.As(err, &e) || e.Code != "invalid" {
		t.Errorf("wrong parameters: %v", err)
	}
}

func TestStream(t *testing.T) {
	c, ctx := start(t), within(t)
	var got []string
	each := func(raw json.RawMessage) error { got = append(got, string(raw)); return nil }
	if err := c.Stream(ctx, "count", 3, each); err != nil || strings.Join(got, "") != "012" {
		t.Errorf("count: %v, %v", got, err)
	}
	enough := errors.New("enough")
	if err := c.Stream(ctx, "forever", nil, func(json.RawMessage) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("forever: %v", err)
	}
	ctx2, cancel := context.WithCancel(ctx)
	if err := c.Stream(ctx2, "forever", nil, func(json.RawMessage) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled stream: %v", err)
	}
}

// TestHangUp ends a call: its handler's ctx ends too.
func TestHangUp(t *testing.T) {
	c, ctx := start(t), within(t)
	ctx2, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := c.Call(ctx2, "hang", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hang: %v", err)
	}
	if err := c.Call(ctx, "hung", nil, nil); err != nil {
		t.Errorf("the handler goes on: %v", err)
	}
}

func TestAwayAndBack(t *testing.T) {
	path, ctx := filepath.Join(t.TempDir(), "s"), within(t)
	c := api.NewClient(path)
	if err := c.Call(ctx, "none", nil, nil); !errors.Is(err, api.ErrAway) {
		t.Errorf("before it starts: %v", err)
	}
	stop := serve(t, path, myself)
	if err := c.Call(ctx, "none", nil, nil); err != nil {
		t.Errorf("started: %v", err)
	}
	ended := make(chan error, 1)
	first := make(chan struct{})
	go func() {
		ended <- c.Stream(ctx, "forever", nil, func(json.RawMessage) error { close(first); return nil })
	}()
	<-first
	stop()
	var e *api.Error
	if err := <-ended; !errors.As(err, &e) {
		t.Errorf("a stream whose server ends: %v", err)
	}
	serve(t, path, myself)
	if err := c.Call(ctx, "none", nil, nil); err != nil {
		t.Errorf("started again: %v", err)
	}
}

// TestGarbage sends lines that are no requests; the connection goes on.
func TestGarbage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	serve(t, path, myself)
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	br := bufio.NewReader(nc)
	for _, l := range []string{"", "garbage", "\x00\xff", "[1]", `{"id":1}`, `{"id":"x"}`, `{"id":1,"method":"add","params":7}`, strings.Repeat("z", api.MaxLine+100_000)} {
		go nc.Write([]byte(l + "\n")) //nolint:errcheck // shows at the read
		ans, err := br.ReadString('\n')
		if err != nil || !strings.Contains(ans, `"error"`) {
			t.Fatalf("%.40q: %q, %v", l, ans, err)
		}
	}
	nc.Write([]byte(`{"id":42,"method":"add","params":{"A":1,"B":2}}` + "\n")) //nolint:errcheck // shows at the read
	if ans, err := br.ReadString('\n'); err != nil || strings.TrimSpace(ans) != `{"id":42,"result":3}` {
		t.Errorf("after garbage: %q, %v", ans, err)
	}
}

// TestHelperProcess is the other user of TestPeerIsChecked.
func TestHelperProcess(t *testing.T) {
	path := os.Getenv("CULVERT_TEST_SOCKET")
	if path == "" {
		return // only a child of TestPeerIsChecked has something to do
	}
	err := api.NewClient(path).Call(within(t), "none", nil, nil)
	fmt.Printf("answer of %d: %v\n", os.Getuid(), err)
}

func TestPeerIsChecked(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs CAP_SETUID to become another user")
	}
	dir, err := os.MkdirTemp("/tmp", "culvert-api")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	serve(t, path, func(uid uint32) bool { return uid == 0 || uid == 100 })
	if err := os.Chmod(path, 0o666); err != nil { // the mode must not be all that protects it
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "test")
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[uint32]string{100: "answer of 100: <nil>", 1234: "answer of 1234: User 1234 may not talk to the network manager."} {
		cmd := exec.Command(exe, "-test.run=^TestHelperProcess$", "-test.v")
		cmd.Env = []string{"CULVERT_TEST_SOCKET=" + path}
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, syscall.ENOEXEC) {
			t.Skip("needs a kernel that runs this test's own binary")
		}
		if err != nil || !bytes.Contains(out, []byte(want)) {
			t.Errorf("user %d: %v, no %q in:\n%s", uid, err, want, out)
		}
	}
}

// A body is not looked into, whatever is in it, and the next request of the
// connection begins where it ends.
func TestBody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	serve(t, path, myself)
	c := api.NewClient(path)
	long := strings.Repeat("\n{\"id\":", 200000)
	for _, body := range []string{"", "x", long} {
		var got string
		if err := c.Call(within(t), "parcel", parcel{"p", []byte(body)}, &got); err != nil || got != "p"+body {
			t.Errorf("a body of %d bytes: %d came back, %v", len(body), len(got), err)
		}
	}
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(nc, "{\"id\":1,\"method\":\"add\",\"params\":{\"A\":1},\"body\":3}\nxyz{\"id\":2,\"method\":\"add\",\"body\":-1}\n{\"id\":3,\"method\":\"parcel\",\"body\":2}\nok{\"id\":4,\"method\":\"parcel\",\"body\":%d}\n%s{\"id\":5,\"method\":\"echo\",\"params\":\"end\"}\n",
		api.MaxLine+1, strings.Repeat("z", api.MaxLine+1))
	br := bufio.NewReader(nc)
	for _, want := range []string{"has no body", "less than nothing", `"ok"`, "longer than", `"end"`} {
		if line, err := br.ReadString('\n'); err != nil || !strings.Contains(line, want) {
			t.Errorf("got %q, %v; want %q", line, err, want)
		}
	}
}

func FuzzServer(f *testing.F) {
	path := filepath.Join(f.TempDir(), "s")
	serve(f, path, myself)
	c := api.NewClient(path)
	for _, s := range []string{"", "{", `{"id":1,"method":"add","params":{"A":1}}`, `{"id":1,"method":"count","params":2}`, "\n\n", "null"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if bytes.Contains(b, []byte("forever")) || bytes.Contains(b, []byte("hang")) || bytes.Contains(b, []byte("hung")) || bytes.Contains(b, []byte("count")) || bytes.Contains(bytes.ToLower(b), []byte("body")) {
			return // these wait, or answer as often as they are told
		}
		nc, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(10 * time.Second))
		nc.Write(append(b, '\n')) //nolint:errcheck // shows at the read
		if _, err := bufio.NewReader(nc).ReadString('\n'); err != nil {
			t.Fatalf("%q: no answer: %v", b, err)
		}
		var sum int
		if err := c.Call(context.Background(), "add", pair{1, 1}, &sum); err != nil || sum != 2 {
			t.Fatalf("after %q: %d, %v", b, sum, err)
		}
	})
}
