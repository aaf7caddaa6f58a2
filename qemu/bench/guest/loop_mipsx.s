//go:build mips || mipsle

#include "textflag.h"

// func loop(n uint32)
// Each round is ADDU, BNE and the NOR that the assembler puts into the branch's delay slot.
TEXT ·loop(SB), NOSPLIT|NOFRAME, $0-4
	MOVW n+0(FP), R1
again:
	ADDU $-1, R1
	BNE  R1, R0, again
	RET
