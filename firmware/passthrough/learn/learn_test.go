package learn

import (
	"testing"
	"time"
)

// browser asks now and then; the server answers with several packets, and the
// device acknowledges. One in five exchanges the server begins.
type browser struct{ mean time.Duration }

func (b browser) start(d *device) {
	w := d.w
	w.after(w.exp(b.mean), func() {
		if w.rng.IntN(5) == 0 {
			d.push(1)
		} else {
			d.send(1 + w.rng.IntN(30))
		}
		b.start(d)
	})
}

func (b browser) served(d *device, n int) {
	for i := range n {
		d.w.after(time.Duration(i)*2*ms, func() { d.push(i % 2) })
	}
}

func (b browser) got(d *device, tag int) {
	if tag > 0 {
		d.w.after(d.w.exp(ms), func() { d.send(0) })
	}
}

// pushed is a device that answers a server, which begins.
type pushed struct{ mean time.Duration }

func (p pushed) start(d *device) {
	d.w.after(d.w.exp(p.mean), func() { d.push(1); p.start(d) })
}
func (p pushed) served(d *device, n int) {}
func (p pushed) got(d *device, tag int)  { d.w.after(d.w.some(3*ms), func() { d.send(0) }) }

// pinger asks in a beat, and gets an answer to each.
type pinger struct{ period time.Duration }

func (p pinger) start(d *device) {
	d.w.after(p.period+time.Duration(d.w.rng.NormFloat64()*float64(2*ms)), func() { d.send(1); p.start(d) })
}
func (p pinger) served(d *device, n int) { d.push(0) }
func (p pinger) got(d *device, tag int)  {}

// listener only takes what the server sends; it says nothing.
type listener struct{ mean time.Duration }

func (p listener) start(d *device) {
	d.w.after(d.w.exp(p.mean), func() { d.push(0); p.start(d) })
}
func (p listener) served(d *device, n int) {}
func (p listener) got(d *device, tag int)  {}

// caller is a call: steady streams both ways.
type caller struct{}

func (c caller) start(d *device) {
	d.w.after(20*ms, func() { d.send(0); d.push(0); c.start(d) })
}
func (c caller) served(d *device, n int) {}
func (c caller) got(d *device, tag int)  {}

// idle says nothing.
type idle struct{}

func (idle) start(*device)       {}
func (idle) served(*device, int) {}
func (idle) got(*device, int)    {}

// any picks n of these, in any order.
func some(w uint64, n int, kinds ...app) (out []app) {
	r := newWorld(w, nil).rng
	for range n {
		out = append(out, kinds[r.IntN(len(kinds))])
	}
	return out
}

var everything = []app{browser{2 * time.Second}, browser{8 * time.Second}, pushed{3 * time.Second}, pinger{100 * ms}, pinger{time.Second},
	listener{time.Second}, listener{50 * ms}, caller{}, idle{}}

// TestLearns: what is learned of each kind of traffic, that hardly a binding is
// wrong, and that none costs more than three packets in a row.
func TestLearns(t *testing.T) {
	for _, c := range []struct {
		name  string
		apps  func(seed uint64) []app
		alone bool // most packets have to be bound in the end
	}{
		{"requests", func(s uint64) []app { return some(s, 3, browser{4 * time.Second}) }, true},
		{"answers", func(s uint64) []app { return some(s, 3, pushed{4 * time.Second}) }, false},
		{"eight that browse", func(s uint64) []app { return some(s, 8, browser{5 * time.Second}) }, true},
		{"equal beats", func(s uint64) []app { return some(s, 3, pinger{time.Second}) }, false},
		{"fast beats", func(s uint64) []app { return some(s, 3, pinger{100 * ms}) }, false},
		{"one way beside requests", func(s uint64) []app { return append(some(s, 2, listener{time.Second}), browser{2 * time.Second}) }, false},
		{"idle beside requests", func(s uint64) []app { return append(some(s, 2, idle{}), browser{2 * time.Second}) }, true},
		{"two of anything", func(s uint64) []app { return some(s, 2, everything...) }, false},
		{"five of anything", func(s uint64) []app { return some(s, 5, everything...) }, false},
		{"twelve of anything", func(s uint64) []app { return some(s, 12, everything...) }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := each(t, 3, func(seed uint64) *world {
				w := newWorld(seed, c.apps(seed))
				w.run(10 * time.Minute)
				return w
			})
			t.Log(r)
			if r.wrongs*50 > r.right {
				t.Errorf("%d wrong bindings", r.wrongs)
			}
			if c.alone && r.alone*5 < r.packets*2 {
				t.Errorf("only %d of %d packets went to their owner alone", r.alone, r.packets)
			}
		})
	}
}

// TestLife has keys change, devices and netd start anew, and events get lost,
// as when they are too many.
func TestLife(t *testing.T) {
	r := each(t, 3, func(seed uint64) *world {
		w := newWorld(seed, some(seed, 2+int(seed%10), everything...))
		w.deaf = 0.2 * w.rng.Float64()
		for range 60 {
			w.run(w.exp(20 * time.Second))
			d := w.devices[w.rng.IntN(len(w.devices))]
			switch w.rng.IntN(4) {
			case 0, 1:
				d.rekey()
			case 2: // the device starts anew, and says so first
				d.in, d.out = 0, 0
				w.after(w.exp(5*time.Second), d.rekey)
			case 3:
				w.restart()
			}
		}
		return w
	})
	t.Log(r)
	if r.wrongs*50 > r.right || r.right == 0 {
		t.Errorf("%d bindings wrong, %d right", r.wrongs, r.right)
	}
}

// TestSame runs a seed twice.
func TestSame(t *testing.T) {
	run := func() report {
		w := newWorld(7, some(7, 9, everything...))
		w.run(10 * time.Minute)
		return w.report
	}
	if a, b := run(), run(); a != b || a.right == 0 {
		t.Errorf("%v, then %v", a, b)
	}
}

// TestBounded: what devices and strangers make up takes room only to a limit,
// and not that of what is bound.
func TestBounded(t *testing.T) {
	w := newWorld(1, some(1, 2, browser{5 * time.Second}))
	w.run(10 * time.Minute)
	bound := len(w.bound)
	if bound == 0 {
		t.Fatal("nothing was bound")
	}
	for i := range uint32(5 * most) {
		w.l.In(w.now, office, i, true)
		w.l.Out(w.now, office, w.devices[0].addr, i, true)
		w.l.In(w.now, w.devices[0].addr, i, true) // nobody's server
	}
	s := w.l.servers[office]
	if len(s.in) > most || len(s.out) > most || len(w.l.servers) != 1 {
		t.Errorf("%d and %d SPIs, want at most %d; %d servers", len(s.in), len(s.out), most, len(w.l.servers))
	}
	for n := range w.bound {
		if s.in[n] == nil {
			t.Errorf("bound SPI %x was forgotten", n)
		}
	}
	w.l.Devices(office, nil)
	if got := w.l.Advance(w.now + time.Hour); len(got) < bound || len(w.l.servers) > 0 {
		t.Errorf("%d changes when all devices went, %d servers left", len(got), len(w.l.servers))
	}
}

// TestWrongBinding forces bindings to the wrong device, one after the other or
// so that two devices have each other's: what their owners lose, and that they
// end. Streams without pauses are left out: they are never bound.
func TestWrongBinding(t *testing.T) {
	for _, c := range []struct {
		name string
		apps func(seed uint64) []app
		ends bool // a beat confirms and refutes nothing
	}{
		{"requests", func(s uint64) []app { return some(s, 3, browser{2 * time.Second}, browser{8 * time.Second}) }, true},
		{"answers", func(s uint64) []app { return some(s, 3, pushed{2 * time.Second}, pushed{8 * time.Second}) }, true},
		{"one way", func(s uint64) []app { return append(some(s, 2, listener{2 * time.Second}), browser{4 * time.Second}) }, true},
		{"beats", func(s uint64) []app { return some(s, 3, pinger{time.Second}) }, false},
		{"anything with pauses", func(s uint64) []app {
			return some(s, 4, browser{2 * time.Second}, browser{8 * time.Second}, pushed{3 * time.Second}, listener{time.Second}, pinger{time.Second})
		}, false},
	} {
		for _, swap := range []bool{false, true} {
			name := c.name
			if swap {
				name += ", swapped"
			}
			t.Run(name, func(t *testing.T) {
				left := 0
				r := each(t, 3, func(seed uint64) *world {
					w := newWorld(seed, c.apps(seed))
					w.run(time.Minute)
					for range 10 {
						i := w.rng.Perm(len(w.devices))
						a, b := w.devices[i[0]], w.devices[i[1]]
						if w.wrongNow() == 0 {
							w.force(a.in, b)
							if swap {
								w.force(b.in, a)
							}
						}
						w.run(w.exp(20 * time.Second))
					}
					w.run(2 * time.Minute)
					left += w.wrongNow()
					return w
				})
				t.Log(r)
				if c.ends && left > 0 {
					t.Errorf("%d wrong bindings are left", left)
				}
				if r.lost*200 > r.packets {
					t.Errorf("%d of %d packets lost", r.lost, r.packets)
				}
			})
		}
	}
}
