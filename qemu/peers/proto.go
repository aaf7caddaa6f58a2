// Package peers runs the lab's VPN peers: one user-mode Linux process with a
// small agent as its init, in which each host of the lab has its own network
// and mount namespace. The peers are programs that others wrote (pptpd, xl2tpd,
// libreswan, dnsmasq, ...); the agent only starts them.
package peers

// AgentAddr is where the agent listens, on the lab's management network.
const AgentAddr = "10.254.0.2:7"

// Request asks the agent to do one thing in one host; "" is the machine itself.
type Request struct {
	ID   uint64 `json:"id"`
	Host string `json:"host"`
	// Op is "exec", "start", "signal", "log", "write", "read", "traffic" or "host".
	Op      string   `json:"op"`
	Argv    []string `json:"argv,omitempty"`
	Stdin   []byte   `json:"stdin,omitempty"`
	Path    string   `json:"path,omitempty"`
	Data    []byte   `json:"data,omitempty"`
	Mode    uint32   `json:"mode,omitempty"`
	PID     int      `json:"pid,omitempty"`
	Signal  int      `json:"signal,omitempty"`
	Timeout int      `json:"timeout,omitempty"` // seconds; exec is killed then
}

// Reply is the answer to the request with the same id.
type Reply struct {
	ID     uint64 `json:"id"`
	Err    string `json:"err,omitempty"`
	Exit   int    `json:"exit"`
	Out    []byte `json:"out,omitempty"` // stdout and stderr together; file content for "read"
	PID    int    `json:"pid,omitempty"`
	Exited bool   `json:"exited,omitempty"` // "log": the process has ended, with Exit
}
