package conntrack

import (
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// msgStatsCPU is IPCTNL_MSG_CT_GET_STATS_CPU.
const msgStatsCPU = 4

// msgExpectGet is IPCTNL_MSG_EXP_GET of NFNL_SUBSYS_CTNETLINK_EXP.
const msgExpectGet = 1

// Expectations is how many connections the kernel's helpers wait for.
func (c *Conn) Expectations() (int, error) {
	nl, err := c.dial()
	if err != nil {
		return 0, err
	}
	defer nl.Close()
	get := request(msgExpectGet, netlink.Dump, unix.AF_UNSPEC, nil)
	get.Header.Type = unix.NFNL_SUBSYS_CTNETLINK_EXP<<8 | msgExpectGet
	msgs, err := nl.Execute(get)
	if err != nil {
		return 0, fmt.Errorf("conntrack: expectations: %w", err)
	}
	return len(msgs), nil
}

// Clashes is how many packets the kernel has dropped because their connection
// was as another one after translation (insert_failed of every CPU): what has no
// ports, of a second device to the same server.
func (c *Conn) Clashes() (n uint64, err error) {
	nl, err := c.dial()
	if err != nil {
		return 0, err
	}
	defer nl.Close()
	msgs, err := nl.Execute(request(msgStatsCPU, netlink.Dump, unix.AF_UNSPEC, nil))
	if err != nil {
		return 0, fmt.Errorf("conntrack: statistics: %w", err)
	}
	for _, m := range msgs {
		if len(m.Data) < 4 {
			continue
		}
		err = attributes(m.Data[4:], func(typ uint16, d []byte) error {
			if typ != 9 { // CTA_STATS_INSERT_FAILED
				return nil
			}
			var v uint32
			err := be32(d, &v)
			n += uint64(v)
			return err
		})
		if err != nil {
			return n, fmt.Errorf("conntrack: statistics: %w", err)
		}
	}
	return n, nil
}
