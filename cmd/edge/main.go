// Command edge serves DNS, SSH and the shell.
package main

import "github.com/culvert-fw/culvert/firmware/edge"

func main() { edge.Main() }
