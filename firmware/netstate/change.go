package netstate

import "fmt"

// Op is one kind of change.
type Op string

// The changes there are. Each takes the field of Change that its name says.
const (
	AddLink     Op = "add link"     // Link: Name, Kind (bridges only)
	DeleteLink  Op = "delete link"  // Link: Name
	SetMaster   Op = "set master"   // Link: Name, Master ("" frees it)
	SetUp       Op = "set up"       // Link: Name, Up
	SetMTU      Op = "set mtu"      // Link: Name, MTU
	SetMAC      Op = "set mac"      // Link: Name, MAC
	AddAddr     Op = "add addr"     // Addr
	DeleteAddr  Op = "delete addr"  // Addr
	AddRoute    Op = "add route"    // Route
	DeleteRoute Op = "delete route" // Route
	AddRule     Op = "add rule"     // Rule
	DeleteRule  Op = "delete rule"  // Rule
	SetSysctl   Op = "set sysctl"   // Sysctl
)

// Change is one change of the kernel's state, as data.
type Change struct {
	Op     Op
	Link   Link
	Addr   Addr
	Route  Route
	Rule   Rule
	Sysctl Sysctl
}

// Text is the change as an admin would type it, e.g.
// "ip addr add 192.168.1.1/24 dev br-lan".
func (c Change) Text() string {
	l := c.Link
	switch c.Op {
	case AddLink:
		return fmt.Sprintf("ip link add %s type %s", l.Name, l.Kind)
	case DeleteLink:
		return "ip link delete " + l.Name
	case SetMaster:
		if l.Master == "" {
			return "ip link set " + l.Name + " nomaster"
		}
		return "ip link set " + l.Name + " master " + l.Master
	case SetUp:
		if l.Up {
			return "ip link set " + l.Name + " up"
		}
		return "ip link set " + l.Name + " down"
	case SetMTU:
		return fmt.Sprintf("ip link set %s mtu %d", l.Name, l.MTU)
	case SetMAC:
		return "ip link set " + l.Name + " address " + l.MAC
	case AddAddr:
		return "ip addr add " + c.Addr.Text()[len("addr "):]
	case DeleteAddr:
		return "ip addr delete " + c.Addr.Text()[len("addr "):]
	case AddRoute:
		return "ip route append " + c.Route.Text()[len("route "):]
	case DeleteRoute:
		return "ip route delete " + c.Route.Text()[len("route "):]
	case AddRule:
		return "ip rule add " + c.Rule.Text()[len("rule "):]
	case DeleteRule:
		return "ip rule delete " + c.Rule.Text()[len("rule "):]
	case SetSysctl:
		return "write " + c.Sysctl.Value + " to /proc/sys/" + c.Sysctl.Key
	}
	return string(c.Op)
}
