// Command init is the router's first process.
package main

import "github.com/culvert-fw/culvert/firmware/boot"

func main() { boot.Main() }
