package shell

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/culvert-fw/culvert/firmware/api"
	"github.com/culvert-fw/culvert/firmware/settings"
)

func runShowFirewall(ctx context.Context, s *Shell, a args) error {
	rules := len(a.words) == 1 && strings.HasPrefix("rules", a.words[0])
	if len(a.words) > 0 && !rules {
		return a.usageError()
	}
	var f api.Firewall
	if err := s.o.API.Call(ctx, api.MethodFirewall, nil, &f); err != nil {
		return err
	}
	if rules {
		if a.json {
			return s.printJSON(f)
		}
		for _, line := range f.Ruleset {
			fmt.Fprintln(s.c, line)
		}
		return nil
	}
	_, cfg, err := s.fetch(ctx, 0)
	if err != nil {
		return err
	}
	if a.json {
		return s.printJSON(struct {
			Firewall    settings.Firewall    `json:"firewall"`
			Passthrough settings.Passthrough `json:"passthrough"`
			Servers     []api.VPNServer      `json:"vpn_servers"`
		}{cfg.Firewall, cfg.Passthrough, f.Servers})
	}
	var switches []string
	for _, p := range cfg.Passthrough.Protocols() {
		switches = append(switches, p.Name+" "+onOff(p.Enabled))
	}
	fmt.Fprintf(s.c, "Fast path %s, answers ping from the Internet %s\n", onOff(cfg.Firewall.Offload), onOff(cfg.Firewall.WANPing))
	fmt.Fprintf(s.c, "Passthrough: %s\n", strings.Join(switches, ", "))
	s.showForwards(cfg.Firewall.Forwards)
	s.showServers(f.Servers)
	return nil
}

func (s *Shell) showForwards(all map[string]settings.Forward) {
	if len(all) == 0 {
		fmt.Fprintln(s.c, "No port forwards.")
		return
	}
	t := newTable("FORWARD", "STATE", "PROTOCOL", ">PORT", "TO")
	for _, name := range sortedKeys(all) {
		f := all[name]
		port := f.ToPort
		if port == 0 {
			port = f.Port
		}
		t.add(name, onOff(f.Enabled), f.Protocol, strconv.Itoa(f.Port), addr(f.To)+":"+strconv.Itoa(port))
	}
	t.write(s.c, s.width())
}

// showServers lists the VPN servers on the LAN, the ports that lead to them
// from the WAN's address, and whether they do.
func (s *Shell) showServers(all []api.VPNServer) {
	if len(all) == 0 {
		fmt.Fprintln(s.c, "No VPN servers on the LAN.")
		return
	}
	t := newTable("VPN SERVER", "DEVICE", "PORTS", "IN EFFECT")
	for _, v := range all {
		device := v.Device
		if v.Address.IsValid() && addr(v.Address) != device {
			device += " " + addr(v.Address)
		}
		state := "yes"
		switch {
		case !v.InEffect:
			state = "no: " + v.Reason
		case len(v.Peers) > 0:
			state = "for " + strings.Join(v.Peers, " ")
		}
		t.add(v.Protocol, device, strings.Join(v.Ports, ", "), state)
	}
	t.write(s.c, s.width())
}
