package learn

import (
	"container/heap"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// The simulation: devices and a server that talk as real ones do, in virtual
// time, through a router that does what the rules of plan/passthrough do.

var (
	runs = flag.Int("runs", 60, "runs of each scenario")
	seed = flag.Uint64("seed", 0, "run only this seed")
)

const (
	ms      = time.Millisecond
	talking = time.Second // how long after its last packet a device counts as talking
	credit  = 2           // packets that go to a device alone for each that it sends
)

var office = netip.MustParseAddr("198.51.100.1")

// world is one run.
type world struct {
	rng   *rand.Rand
	now   time.Duration
	queue events
	order int

	l       *Learner
	devices []*device
	heard   map[uint32]time.Duration // last packet of an SPI, either direction's
	sampled map[uint32]time.Duration
	bound   map[uint32]netip.Addr
	settled map[uint32]bool
	doubt   time.Duration      // until then nothing goes to one device alone
	owner   map[uint32]*device // of inbound SPIs
	users   map[uint32]*device // of outbound ones
	wrong   map[uint32]int     // packets that a wrong binding has lost in a row
	loss    float64
	deaf    float64 // share of events that netd is not told
	report
}

// report is what a run came to.
type report struct {
	packets, alone, copied int // inbound, to each owner alone, to all
	right, wrongs, ended   int // bindings
	worst                  int // packets lost by one wrong binding
	lost                   int // by all
}

type device struct {
	w       *world
	addr    netip.Addr
	rtt     time.Duration // from the router to the server and back
	jitter  time.Duration // what is added to it, in the mean
	in, out uint32        // SPIs of its SA
	last    time.Duration // last packet out
	credit  int           // packets that may come alone until the next packet out
	app     app
}

// app is what a device does with its tunnel: it begins, and takes packets.
type app interface {
	start(d *device)
	got(d *device, tag int)    // the device has a packet
	served(d *device, tag int) // the server has a packet
}

type event struct {
	at    time.Duration
	order int
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any     { o := *e; x := o[len(o)-1]; *e = o[:len(o)-1]; return x }

func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.queue, event{w.now + max(d, 0), w.order, do})
}

// exp is a time with an exponential distribution.
func (w *world) exp(mean time.Duration) time.Duration {
	return time.Duration(float64(mean) * w.rng.ExpFloat64())
}

// some is a time within 30 % of another.
func (w *world) some(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.7 + 0.6*w.rng.Float64()))
}

func newWorld(seed uint64, apps []app) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), now: time.Hour, l: New(), heard: map[uint32]time.Duration{}, sampled: map[uint32]time.Duration{},
		bound: map[uint32]netip.Addr{}, settled: map[uint32]bool{}, owner: map[uint32]*device{}, users: map[uint32]*device{}, wrong: map[uint32]int{}, loss: 0.005}
	for i, a := range apps {
		d := &device{w: w, addr: netip.AddrFrom4([4]byte{192, 168, 1, byte(10 + i)}), rtt: time.Duration(4+w.rng.IntN(150)) * ms, jitter: w.exp(ms), app: a}
		w.devices = append(w.devices, d)
	}
	w.tellDevices()
	for _, d := range w.devices {
		w.after(w.exp(200*ms), func() { d.rekey(); d.app.start(d) })
	}
	return w
}

func (w *world) tellDevices() {
	var all []netip.Addr
	for _, d := range w.devices {
		all = append(all, d.addr)
	}
	w.l.Devices(office, all)
}

// rekey gives the device a new SA.
func (d *device) rekey() {
	d.in, d.out = d.w.rng.Uint32()|1, d.w.rng.Uint32()|1
	d.w.owner[d.in], d.w.users[d.out] = d, d
}

// sample tells whether a packet is one that netd is told of.
func (w *world) sample(spi uint32) bool {
	last := w.sampled[spi]
	w.sampled[spi] = w.now
	return w.now-last >= Pause
}

// send sends from the device; the packet is of the SA of now.
func (d *device) send(tag int) {
	w := d.w
	if d.in == 0 || w.rng.Float64() < w.loss {
		return
	}
	if begins := w.now-w.heard[d.out] > Silence; w.rng.Float64() >= w.deaf && (begins || !w.settled[d.out] && w.sample(d.out)) {
		w.l.Out(w.now, office, d.addr, d.out, begins)
	}
	w.heard[d.out], d.last, d.credit = w.now, w.now, credit
	if !w.settled[d.out] {
		w.doubt = w.now + talking
	}
	w.after(d.rtt+w.exp(d.jitter), func() {
		if w.rng.Float64() >= w.loss {
			d.app.served(d, tag)
		}
	})
}

// push sends from the server: the rules of the router, as in plan/passthrough.
func (d *device) push(tag int) {
	w := d.w
	if d.in == 0 || w.rng.Float64() < w.loss {
		return
	}
	spi := d.in
	w.packets++
	began := w.now-w.heard[spi] > Silence
	w.heard[spi] = w.now
	b, ok := w.bound[spi]
	if began && ok {
		w.silence(b)
	}
	alone := ok && !began && w.now >= w.doubt && w.spend(b)
	switch {
	case !alone:
		if w.rng.Float64() >= w.deaf && (began || w.sample(spi)) {
			if ok && !began && w.now >= w.doubt && w.now-w.by(b).last >= talking {
				w.l.Unanswered(office, spi)
			} else {
				w.l.In(w.now, office, spi, began)
			}
		}
		w.copied++
		w.wrong[spi] = 0
	case b == d.addr:
		w.alone++
	default:
		w.lost++
		w.wrong[spi]++
		w.worst = max(w.worst, w.wrong[spi])
		return
	}
	w.after(time.Duration(1+w.rng.IntN(4))*ms, func() { d.app.got(d, tag) })
}

// silence forgets that a device talked: it has to again in this burst.
func (w *world) silence(a netip.Addr) { w.by(a).last = 0 }

// spend takes one packet of the credit that a device has while it talks.
func (w *world) spend(a netip.Addr) bool {
	d := w.by(a)
	if w.now-d.last >= talking || d.credit == 0 {
		return false
	}
	d.credit--
	return true
}

func (w *world) by(a netip.Addr) *device {
	return w.devices[slices.IndexFunc(w.devices, func(d *device) bool { return d.addr == a })]
}

// run lets time pass.
func (w *world) run(length time.Duration) {
	end := w.now + length
	for len(w.queue) > 0 && w.queue[0].at <= end {
		at := w.queue[0].at
		if due, ok := w.l.Next(); ok && due <= at {
			w.now = max(w.now, due)
			w.apply(w.l.Advance(w.now))
			continue
		}
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
	}
	w.now = end
}

func (w *world) apply(changes []Change) {
	for _, c := range changes {
		switch {
		case c.Kind == Settle:
			w.settled[c.SPI] = true
		case c.Kind == Unsettle:
			delete(w.settled, c.SPI)
		case c.Kind == Unbind:
			delete(w.bound, c.SPI)
			w.ended++
		case w.owner[c.SPI].addr == c.Device:
			w.bound[c.SPI] = c.Device
			w.right++
		default:
			w.bound[c.SPI] = c.Device
			w.wrongs++
		}
	}
}

// restart is netd's: the rules stay.
func (w *world) restart() {
	w.l = New()
	w.tellDevices()
	for spi, a := range w.bound {
		w.l.Adopt(w.now, Change{Bind, office, spi, a})
	}
	var in []uint32
	for n := range w.owner {
		in = append(in, n)
	}
	out := map[uint32]netip.Addr{}
	for n, d := range w.users {
		out[n] = d.addr
	}
	w.l.Old(w.now, office, in, out, netip.Addr{})
	for spi := range w.settled {
		if d := w.users[spi]; d != nil {
			w.l.Adopt(w.now, Change{Settle, office, spi, d.addr})
		}
	}
}

// force binds an SPI to a device as if there were evidence.
func (w *world) force(n uint32, d *device) {
	s := w.l.servers[office]
	if s.in[n] == nil {
		s.in[n] = &spi{first: w.now}
	}
	x := s.in[n]
	if x.device.IsValid() {
		w.l.unbind(office, n, x)
		w.apply(w.l.Advance(w.now))
	}
	x.device, x.pair, x.strikes, x.confirmed = d.addr, d.out, 0, w.now
	w.bound[n] = d.addr
	if o := w.l.servers[office].out[d.out]; o != nil {
		o.settled = true
		w.settled[d.out] = true
	}
}

// wrongNow is how many bindings in force are wrong.
func (w *world) wrongNow() (n int) {
	for spi, a := range w.bound {
		if w.owner[spi].addr != a {
			n++
		}
	}
	return n
}

func (r report) String() string {
	return fmt.Sprintf("%6.2f %% alone, %6.2f %% copied, %d bindings right, %d wrong, %d ended, %d packets lost, at most %d in a row",
		100*float64(r.alone)/math.Max(1, float64(r.packets)), 100*float64(r.copied)/math.Max(1, float64(r.packets)), r.right, r.wrongs, r.ended, r.lost, r.worst)
}

func (r *report) add(o report) {
	r.packets, r.alone, r.copied, r.right, r.wrongs = r.packets+o.packets, r.alone+o.alone, r.copied+o.copied, r.right+o.right, r.wrongs+o.wrongs
	r.ended, r.lost, r.worst = r.ended+o.ended, r.lost+o.lost, max(r.worst, o.worst)
}

// each runs a scenario many times. A wrong binding may lose so many packets in a
// row.
func each(t *testing.T, most int, run func(seed uint64) *world) report {
	t.Helper()
	var sum report
	first, last := uint64(1), uint64(*runs)
	if *seed != 0 {
		first, last = *seed, *seed
	}
	for s := first; s <= last; s++ {
		w := run(s)
		sum.add(w.report)
		if w.worst > most {
			t.Errorf("seed %d: a wrong binding lost %d packets in a row, most %d", s, w.worst, most)
		}
	}
	return sum
}
