// Package plan decides what the router should be: from the board, the settings
// and what was learnt it makes the state of the kernel and the configuration
// of every service. It is pure.
package plan

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/culvert-fw/culvert/firmware/facts"
	"github.com/culvert-fw/culvert/firmware/netstate"
	"github.com/culvert-fw/culvert/firmware/plan/firewall"
	"github.com/culvert-fw/culvert/firmware/plan/passthrough"
	"github.com/culvert-fw/culvert/firmware/ruleset"
	"github.com/culvert-fw/culvert/firmware/settings"
)

// Bridge is the LAN's bridge.
const Bridge = "br-lan"

// Board is what plan needs to know of the hardware.
type Board struct {
	LANPorts []string // members of the LAN bridge
	WANPort  string
	RAM      int // megabytes; 0 counts as 64
}

// Desired is everything the router should be.
type Desired struct {
	Net   netstate.State
	Rules *ruleset.Table

	LAN      LAN
	WAN      WAN
	Subnets  []passthrough.Subnet
	DHCP     *DHCPServer // nil: no server
	Client   *DHCPClient // nil: the WAN is static
	DNS      DNS
	SSH      SSH
	NTP      NTP
	Hostname string
	Claimed  bool // the router has an owner

	// Problems are standing problems, one complete sentence each.
	Problems []string
	// Settings are those in effect: the given ones, moved along when the LAN
	// moved by itself. They are shared; don't write.
	Settings *settings.Settings
	// Facts are those that this was decided by.
	Facts facts.Facts

	input    firewall.Input // of Rules
	problems []settings.Problem
}

// LAN is the home side.
type LAN struct {
	Device  string
	Address netip.Prefix // in effect
	Moved   bool         // it moved by itself off the WAN's subnet
}

// WAN is the Internet side.
type WAN struct {
	Device  string
	Address netip.Prefix // invalid: none
	Gateway netip.Addr   // invalid: none
	Held    bool         // an address is to be had but not used, see Problems
}

// DHCPServer configures the LAN's DHCP server.
type DHCPServer struct {
	Device     string
	Address    netip.Prefix // the router's own, with the LAN's prefix length
	Start, End netip.Addr   // the pool, both included; Address is never given out
	Lease      time.Duration
	// Short is what clients get for now instead of Lease, 0 when that is it:
	// the LAN may move, which they notice only when they renew.
	Short  time.Duration
	Domain string // "lan"
	DNS    []netip.Addr
	Hosts  []Host // named devices, ordered by address and name
	Routes []passthrough.Subnet
}

// Host is a named device.
type Host struct {
	Name string
	MAC  string
	Addr netip.Addr // its fixed address; invalid: that of its lease
}

// DHCPClient configures the WAN's DHCP client.
type DHCPClient struct {
	Device   string
	Hostname string
}

// DNS configures the forwarder.
type DNS struct {
	Upstreams []netip.Addr
	CacheSize int
	Names     []Name // of LAN devices, ordered by name; the router's own is not among them
}

// Name is a LAN device's DNS label.
type Name struct {
	Name string
	Addr netip.Addr
}

// SSH configures the SSH server.
type SSH struct {
	Port  int
	OnWAN bool
}

// NTP configures the clock.
type NTP struct{ Servers []string }

// Options are what Desired needs beside the settings and the facts.
type Options struct {
	// LANByHand tells that a person chose the LAN address, even if it is the
	// default one: it never moves by itself.
	LANByHand bool
	// LANUnsettled tells that the WAN had no lease since the boot: the first
	// one may make the LAN move.
	LANUnsettled bool
	// LANPortsDown takes the LAN ports' carrier away for a moment: the LAN has
	// just moved, and clients ask for an address anew when their link returns.
	LANPortsDown bool
	// Valid tells that the settings have been validated.
	Valid bool
	// Before is an earlier result, which changes nothing but the work: rules
	// that stay the same are taken from it. May be nil.
	Before *Desired
}

// shortLease is about as long as a client keeps a wrong address when the LAN
// moves while it is unsettled.
const shortLease = 2 * time.Minute

// For decides everything. Problems mean that s can't be carried out and
// nothing is returned; standing problems of a router that works are in
// Desired.Problems.
func For(b Board, s *settings.Settings, f facts.Facts, o Options) (*Desired, settings.Problems) {
	if !o.Valid {
		if problems := s.Validate(); len(problems) > 0 {
			return nil, problems
		}
	}
	lan, held, problem := EffectiveLAN(s, f, o.LANByHand)
	eff := moved(s, lan)
	d := &Desired{
		LAN:      LAN{Device: Bridge, Address: lan, Moved: eff != s},
		WAN:      wan(b, eff, f, held),
		SSH:      SSH{Port: eff.SSH.Port, OnWAN: eff.SSH.WAN},
		NTP:      NTP{Servers: eff.System.NTP.Servers},
		Hostname: eff.System.Hostname,
		Claimed:  eff.System.Admin.Password != "" || len(eff.System.Admin.Keys) > 0,
		Settings: eff,
		Facts:    f,
	}
	if problem != "" {
		d.Problems = append(d.Problems, problem)
	}
	d.links(b, eff, f, o)
	d.addrs(eff)
	d.subnets(eff)
	d.routes(eff, f)
	d.Net.Sysctls = sysctls(b)
	d.Net.Sort()
	d.services(eff, f)
	if d.DHCP != nil && o.LANUnsettled && !chosen(s, o.LANByHand) && s.WAN.Mode == settings.WANDHCP && shortLease < d.DHCP.Lease {
		d.DHCP.Short = shortLease
	}
	d.rules(b, eff, f, o.Before)
	return d, nil
}

// wan is the WAN's address in effect.
func wan(b Board, s *settings.Settings, f facts.Facts, held bool) WAN {
	w := WAN{Device: b.WANPort, Held: held}
	switch {
	case held:
	case s.WAN.Mode == settings.WANStatic:
		w.Address, w.Gateway = s.WAN.Static.Address, s.WAN.Static.Gateway
	case f.WAN != nil:
		w.Address, w.Gateway = f.WAN.Address, f.WAN.Gateway
		for _, r := range f.WAN.Routes {
			if r.Dst.Bits() == 0 {
				w.Gateway = r.Via
			}
		}
	}
	return w
}

// services fills in what is no kernel state.
func (d *Desired) services(s *settings.Settings, f facts.Facts) {
	if s.WAN.Mode == settings.WANDHCP {
		d.Client = &DHCPClient{Device: d.WAN.Device, Hostname: s.System.Hostname}
	}
	hosts := hosts(s)
	if s.LAN.DHCP.Enabled {
		d.DHCP = &DHCPServer{
			Device: Bridge, Address: d.LAN.Address,
			Start: settings.Nth(d.LAN.Address, s.LAN.DHCP.Start), End: settings.Nth(d.LAN.Address, s.LAN.DHCP.End),
			Lease: time.Duration(s.LAN.DHCP.LeaseTime), Domain: "lan",
			DNS: []netip.Addr{d.LAN.Address.Addr()}, Hosts: hosts, Routes: d.Subnets,
		}
	}
	d.DNS = DNS{CacheSize: s.DNS.CacheSize, Names: names(d.LAN.Address, hosts, f.Leases), Upstreams: s.DNS.Upstreams}
	if len(d.DNS.Upstreams) == 0 && s.WAN.Mode == settings.WANDHCP && f.WAN != nil && !d.WAN.Held {
		d.DNS.Upstreams = slices.Clone(f.WAN.DNS)
	}
	if len(d.DNS.Upstreams) == 0 && d.WAN.Address.IsValid() {
		d.Problems = append(d.Problems, "The WAN's DHCP server offers no DNS resolver, so names do not resolve. Fix: set dns upstreams 9.9.9.9; commit")
	}
}

func hosts(s *settings.Settings) []Host {
	var hs []Host
	for name, h := range s.LAN.Hosts {
		hs = append(hs, Host{Name: name, MAC: h.MAC, Addr: h.Address})
	}
	slices.SortFunc(hs, func(a, b Host) int {
		if c := a.Addr.Compare(b.Addr); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return hs
}

// names are those of fixed hosts and of leases. What a person named keeps that
// name, which nobody else has, and a lease from before the LAN moved does not
// count.
func names(lan netip.Prefix, hosts []Host, leases []facts.Lease) []Name {
	var ns []Name
	taken := func(l facts.Lease) bool {
		return slices.ContainsFunc(ns, func(n Name) bool { return n.Name == l.Name }) ||
			slices.ContainsFunc(hosts, func(h Host) bool { return h.Addr == l.Addr })
	}
	for _, h := range hosts {
		if h.Addr.IsValid() {
			ns = append(ns, Name{h.Name, h.Addr})
		}
	}
	for _, l := range leases {
		for _, h := range hosts {
			switch {
			case h.MAC == l.MAC && !h.Addr.IsValid():
				l.Name = h.Name
			case h.Name == l.Name && h.MAC != l.MAC:
				l.Name = ""
			}
		}
		if l.Name != "" && lan.Contains(l.Addr) && !taken(l) {
			ns = append(ns, Name{l.Name, l.Addr})
		}
	}
	slices.SortFunc(ns, func(a, b Name) int { return strings.Compare(a.Name, b.Name) })
	return ns
}
