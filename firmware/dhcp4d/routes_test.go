package dhcp4d

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
)

func route(dst, via string) Route { return Route{netip.MustParsePrefix(dst), ip(via)} }

// asks is for a client that wants these options.
func asks(codes ...dhcpv4.OptionCode) dhcpv4.Modifier { return dhcpv4.WithRequestedOptions(codes...) }

// TestRoutes: option 121 goes to who asks for it, the default route in it.
func TestRoutes(t *testing.T) {
	with := func(o *Options) {
		o.Config.Routes = []Route{route("10.20.0.0/16", "192.168.1.10"), route("10.30.5.128/25", "192.168.1.11"), route("172.16.0.0/12", "192.168.1.10")}
		o.Config.Static = []Static{{MAC: mac(10), Addr: ip("192.168.1.10")}, {MAC: mac(11), Addr: ip("192.168.1.11")}}
	}
	const option = dhcpv4.OptionClasslessStaticRoute
	bubble(t, with, func(t *testing.T, l *lan) {
		for _, c := range []struct {
			host int
			mod  dhcpv4.Modifier
			want string // the option's bytes, RFC 3442
		}{
			{1, asks(dhcpv4.OptionRouter, option), "10 0a14 c0a8010a | 19 0a1e0580 c0a8010b | 0c ac10 c0a8010a | 00 c0a80101"},
			{2, asks(dhcpv4.OptionRouter), ""},
			{3, asks(), ""},
			{10, asks(option), "19 0a1e0580 c0a8010b | 00 c0a80101"}, // a gateway itself
		} {
			h := l.host(c.host)
			for _, typ := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest} {
				mods := []dhcpv4.Modifier{c.mod}
				if typ == dhcpv4.MessageTypeRequest {
					mods = append(mods, requested(h.discover()), serverID(l.router()))
				}
				r := h.say(typ, mods...)
				got := fmt.Sprintf("%x", r.Options.Get(option))
				if want := strings.NewReplacer(" ", "", "|", "").Replace(c.want); got != want {
					t.Errorf("host %d, %s: option 121 is %s, want %s", c.host, typ, got, want)
				}
				if len(r.Router()) != 1 {
					t.Errorf("host %d: no router option for who knows no other", c.host)
				}
			}
		}
		// A device with an address of its own asks by INFORM.
		r := l.host(20).say(dhcpv4.MessageTypeInform, ciaddr(ip("192.168.1.20")), asks(option))
		if len(r.Options.Get(option)) == 0 {
			t.Error("no routes for an INFORM")
		}
		r = l.host(10).say(dhcpv4.MessageTypeInform, ciaddr(ip("192.168.1.10")), asks(option))
		if got := fmt.Sprintf("%x", r.Options.Get(option)); got != "190a1e0580c0a8010b00c0a80101" {
			t.Errorf("routes of a gateway that asks by INFORM: %s", got)
		}
		// Without routes the option is not there, at the next renewal.
		h := l.host(4)
		a := h.get()
		cfg := config()
		if err := l.SetConfig(cfg); err != nil {
			t.Fatal(err)
		}
		if r := h.say(dhcpv4.MessageTypeRequest, ciaddr(a), asks(option)); r.Options.Get(option) != nil {
			t.Error("routes after they were taken back")
		}
	})
}

// TestRoutesFit: what does not fit is left out, as a whole.
func TestRoutesFit(t *testing.T) {
	many := func(n int) func(*Options) {
		return func(o *Options) {
			for i := range n {
				o.Config.Routes = append(o.Config.Routes, route(fmt.Sprintf("10.20.%d.0/30", i), "192.168.1.10"))
			}
		}
	}
	const option = dhcpv4.OptionClasslessStaticRoute
	for _, c := range []struct {
		routes int
		id     int // bytes of the client identifier, which goes back (RFC 6842)
		size   int // what the client takes, 0 when it does not say
		there  bool
	}{{16, 7, 0, true}, {16, 200, 0, false}, {16, 200, 400, false}, {16, 200, 1500, true}, {27, 7, 1500, true}, {28, 7, 1500, false}} {
		bubble(t, many(c.routes), func(t *testing.T, l *lan) {
			h := l.host(1)
			h.id = []byte(strings.Repeat("x", c.id))
			mods := []dhcpv4.Modifier{asks(option)}
			if c.size != 0 {
				mods = append(mods, dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(uint16(c.size))))
			}
			r := h.say(dhcpv4.MessageTypeDiscover, mods...)
			if got := r.Options.Get(option) != nil; got != c.there {
				t.Errorf("%+v: sent %v", c, got)
			}
		})
	}
}

// TestRoutesOfClients: real clients read the option.
func TestRoutesOfClients(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"udhcpc", []string{"udhcpc", "-f", "-i", "cli0", "-O", "121", "-s",
			script(t, `echo "$1 $ip routes $staticroutes"`+"\n")}, "bound %s routes 10.20.0.0/16 192.168.1.10 10.30.5.128/25 192.168.1.11 0.0.0.0/0 192.168.1.1"},
		{"dhclient", []string{"dhclient", "-d", "-lf", "LEASES", "-pf", "PID", "-sf",
			script(t, `echo "$reason $new_ip_address routes $new_rfc3442_classless_static_routes"`+"\n"), "cli0"},
			"BOUND %s routes 16 10 20 192 168 1 10 25 10 30 5 128 192 168 1 11 0 192 168 1 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			nstest.Require(t, c.name)
			peer := nstest.NewPeer(t, "lan0", "cli0")
			s, changes := serve(t)
			cfg := config()
			cfg.Interface = "lan0"
			cfg.Routes = []Route{route("10.20.0.0/16", "192.168.1.10"), route("10.30.5.128/25", "192.168.1.11")}
			if err := s.SetConfig(cfg); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			args := make([]string, len(c.args))
			for i, a := range c.args {
				args[i] = strings.NewReplacer("LEASES", dir+"/leases", "PID", dir+"/pid").Replace(a)
			}
			p := peer.Start(args...)
			l := next(t, changes, 1)[0]
			p.Expect(0, fmt.Sprintf(c.want, l.Addr))
		})
	}
}

func TestRoutesWrong(t *testing.T) {
	for _, r := range []Route{route("0.0.0.0/0", "192.168.1.10"), route("192.168.0.0/16", "192.168.1.10"), route("10.20.0.0/16", "192.168.2.1"),
		route("10.20.0.1/16", "192.168.1.10"), {}} {
		c := config()
		c.Routes = []Route{r}
		if c.Validate() == nil {
			t.Errorf("%v is taken", r)
		}
	}
}
