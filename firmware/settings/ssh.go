package settings

// SSH is the SSH shell.
type SSH struct {
	Port int  `json:"port" schema:"min=1,max=65535" help:"TCP port"`
	WAN  bool `json:"wan" help:"also listen on the WAN (off: LAN only)"`
}

func defaultSSH() SSH { return SSH{Port: 22} }

func checkSSH(c *check) {
	if c.s.SSH.Port == 53 {
		c.addf("ssh port", 53, "the DNS forwarder uses it", "another port, e.g. 22")
	}
}
