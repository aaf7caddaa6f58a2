package settings

// Passthrough has one switch a VPN protocol.
type Passthrough struct {
	PPTP  PassProtocol `json:"pptp" help:"PPTP: TCP 1723 and its GRE"`
	L2TP  PassProtocol `json:"l2tp" help:"L2TP outside IPsec: UDP 1701 and IP protocol 115"`
	IPsec PassProtocol `json:"ipsec" help:"IPsec: UDP 500 and 4500, ESP, AH"`
}

// PassProtocol is the switch of one protocol.
type PassProtocol struct {
	Enabled bool `json:"enabled" schema:"self" help:"on or off"`
}

func defaultPassthrough() Passthrough {
	on := PassProtocol{Enabled: true}
	return Passthrough{PPTP: on, L2TP: on, IPsec: on}
}

// checkPassthrough has nothing to find: any combination of switches is right.
func checkPassthrough(*check) {}
