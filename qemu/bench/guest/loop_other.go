//go:build !mips && !mipsle

package main

const loopInstructions = 0 // not known: only the guest's CPU is counted

func loop(uint32) {}
