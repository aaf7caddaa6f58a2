package reconcile

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"testing"

	"github.com/culvert-fw/culvert/firmware/kernel/nft"
	"github.com/culvert-fw/culvert/firmware/kernel/rtnl"
	"github.com/culvert-fw/culvert/firmware/kernel/sysctl"
	"github.com/culvert-fw/culvert/firmware/rawudp/nstest"
)

func TestMain(m *testing.M) { nstest.Main(m) }

// realKernel is this network namespace with the physical interfaces made anew.
func realKernel(t *testing.T) Kernel {
	t.Helper()
	nstest.Require(t)
	net, err := rtnl.New()
	if err != nil {
		t.Fatal(err)
	}
	clean := func() {
		exec.Command("ip", "link", "del", "br-lan").Run()
		for i, p := range physical {
			exec.Command("ip", "link", "del", p).Run()
			exec.Command("ip", "link", "del", fmt.Sprint("peer", i)).Run()
		}
	}
	clean()
	t.Cleanup(func() { net.Close(); clean() })
	for i, p := range physical {
		nstest.IP(t, fmt.Sprintf("link add %s type veth peer name peer%d\nlink set peer%d up", p, i, i))
	}
	return Kernel{Net: net, Sysctl: sysctl.Default, Rules: nft.New(nft.Options{})}
}

func TestConvergeKernel(t *testing.T) {
	for _, seed := range seeds(t, 5) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bodyConverge(t, rand.New(rand.NewPCG(seed, 0)), realKernel(t), 4)
		})
	}
}

func TestUndoKernel(t *testing.T) {
	for _, seed := range seeds(t, 5) {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			bodyUndo(t, rand.New(rand.NewPCG(seed, 0)), realKernel(t))
		})
	}
}
