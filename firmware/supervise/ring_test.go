package supervise

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

func unixListen(path string) (net.Listener, error) { return net.Listen("unix", path) }

func testRing(max int) *Ring {
	return NewRing(max, func() time.Time { return time.Unix(1000, 0) }, func() time.Duration { return 5 * time.Second })
}

func TestRingIsBounded(t *testing.T) {
	const size = 2000
	r := testRing(size)
	for i := range 1000 {
		r.Add(fmt.Sprintf("line %d", i))
	}
	lines := r.Tail(0)
	sum := 0
	for _, l := range lines {
		sum += len(l.Text) + lineCost
	}
	if sum > size || sum < size-100 {
		t.Errorf("keeps %d bytes, want nearly %d", sum, size)
	}
	if cap(r.lines) > 2*len(lines)+8 {
		t.Errorf("the array holds %d lines for %d", cap(r.lines), len(lines))
	}
	if got := lines[len(lines)-1].Text; got != "line 999" {
		t.Errorf("last line is %q", got)
	}
	if got, want := r.Dropped()+int64(len(lines)), int64(1000); got != want {
		t.Errorf("dropped + kept = %d, want %d", got, want)
	}
	if got := r.Tail(2); len(got) != 2 || got[0].Text != "line 998" {
		t.Errorf("Tail(2) = %v", got)
	}
}

func TestRingSplitsLines(t *testing.T) {
	r := testRing(1 << 20)
	long := strings.Repeat("x", 2*MaxLine+10)
	if _, err := r.ReadFrom(strings.NewReader("a\r\n\nb\n" + long + "\nend")); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range r.Tail(0) {
		got = append(got, fmt.Sprint(len(l.Text)))
	}
	if g, want := strings.Join(got, " "), "1 0 1 1024 1024 10 3"; g != want {
		t.Errorf("line lengths %s, want %s", g, want)
	}
}

func TestRingTimes(t *testing.T) {
	r := testRing(1 << 20)
	r.AddAt(2*time.Second, "early")
	r.Add("now")
	l := r.Tail(0)
	if l[0].Wall.Unix() != 997 || l[0].Uptime != 2*time.Second || l[1].Wall.Unix() != 1000 {
		t.Errorf("times are %v %v, %v", l[0].Wall.Unix(), l[0].Uptime, l[1].Wall.Unix())
	}
}
