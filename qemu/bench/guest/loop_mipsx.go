//go:build mips || mipsle

package main

const loopInstructions = 3 // a round

// loop runs n rounds.
//
//go:noescape
func loop(n uint32)
