#include "textflag.h"

// Init: the program of the launcher's children, as a forker, in what that forks as
// stage one, and as PID 1 of the new namespaces. It reads a plan from descriptor 3
// into its buffer and carries it out. isolate/layout.go draws the plan.
//
// The law of this file: position of text and buffer are those of image.go and
// nothing else; no stack (the child of the clone shares it); no literal pool;
// nothing per kind of call. This code never runs inside a Go program: image.go
// copies it into an ELF file of its own.
//
//	BX  the buffer        R12 the current call     R13 the end of this part
//	R14 the part: 0 Init, 1 Child, 2 Parent        R15 which arguments are loads

#define BUFFER    $0x480000
#define CAPACITY  $0x100000
#define FORKER    $0x580000   // the buffer of one, behind that of what it forks

#define SYS_read       $0
#define SYS_sendto     $44
#define SYS_wait4      $61
#define SYS_exit_group $231

#define ARGUMENT(bit, offset, register) \
	MOVQ  offset(R12), register; \
	TESTQ $bit, R15; \
	JEQ   2(PC); \
	MOVQ  (register), register

TEXT ·initProgram(SB), NOSPLIT|NOFRAME, $0-0
	// Read the plan: its first word is its size. End of file means that the
	// host or the launcher is gone: end before anything has happened.
	MOVQ FORKER, BX
	JMP  plan

	// What a forker has forked is in its memory, which it leaves as it is.
another:
	MOVQ BUFFER, BX

plan:
	XORL R12, R12

read:
	MOVL SYS_read, AX
	MOVL $3, DI
	LEAQ (BX)(R12*1), SI
	MOVL CAPACITY, DX
	SUBQ R12, DX
	SYSCALL
	CMPQ AX, $-4                 // EINTR
	JEQ  read
	TESTQ AX, AX
	JLE  quit
	ADDQ AX, R12
	CMPQ R12, 0(BX)
	JLT  read

	// A server comes here again.
begin:
	MOVQ $0, 40(BX)
	MOVQ 8(BX), R12
	MOVQ 16(BX), R13
	XORL R14, R14

next:
	CMPQ R12, R13
	JEQ  partDone
	MOVQ 8(R12), R15
	ARGUMENT(1, 32, DI)
	ARGUMENT(2, 40, SI)
	ARGUMENT(4, 48, DX)
	ARGUMENT(8, 56, R10)
	ARGUMENT(16, 64, R8)
	ARGUMENT(32, 72, R9)
	MOVQ (R12), AX
	SYSCALL
	MOVQ AX, 24(R12)
	CMPQ R12, 56(BX)
	JEQ  request
	CMPQ AX, $-4095
	JCS  advance
	NEGQ AX
	CMPQ AX, 16(R12)
	JNE  failed

advance:
	ADDQ $80, R12
	JMP  next

	// A request that is not whole, or none: the host is gone.
request:
	CMPQ AX, 16(R12)
	JEQ  advance
	JMP  quit

	// Report the call at R12 and the errno in AX, in the record that the plan has
	// begun. A child tells its parent, whose memory it shares, not to go on; a server
	// begins again nevertheless. It goes on until it has somebody to tell, and makes no
	// child then; of several the first counts.
failed:
	CMPQ 40(BX), $0
	JNE  told
	MOVQ $1, 40(BX)
	MOVQ R12, 88(BX)
	MOVQ AX, 96(BX)
told:
	TESTQ R14, R14
	JNE  report
	CMPQ 56(BX), $0
	JEQ  report
	CMPQ R12, BX                 // the clone: it was asked
	JEQ  report
	CMPQ R12, 56(BX)
	JHI  quit                    // the request is not complete
	JMP  advance

partDone:
	CMPQ R14, $1
	JEQ  another                 // a child that has not executed anything is the next init
	JHI  parentDone
	CMPQ 40(BX), $0
	JNE  report
	MOVQ 48(BX), AX
	TESTQ AX, AX
	JEQ  plan                    // nothing to start: another plan follows
	MOVQ 104(BX), DI
	MOVQ 112(BX), SI
	MOVQ 120(BX), DX
	XORL R10, R10
	XORL R8, R8
	SYSCALL
	TESTQ AX, AX
	JEQ  child
	JGT  parent
	NEGQ AX
	MOVQ BX, R12                 // the clone itself failed
	JMP  failed

child:
	MOVQ 24(BX), R13
	MOVL $1, R14
	JMP  next                    // R12 stands at the first Child call

parent:
	CMPQ 56(BX), $0
	JNE  begin
	MOVQ AX, 64(BX)
	CMPQ 40(BX), $0
	JNE  quit                    // the child has reported
	MOVQ 24(BX), R12
	MOVQ 32(BX), R13
	MOVL $2, R14
	JMP  next

parentDone:
	// Reap until the program itself ends; report it; the kernel kills the rest.
supervise:
	MOVL SYS_wait4, AX
	MOVQ $-1, DI
	LEAQ 72(BX), SI
	MOVL $0x40000000, DX         // __WALL
	XORL R10, R10
	SYSCALL
	CMPQ AX, $-4                 // EINTR
	JEQ  supervise
	TESTQ AX, AX
	JLT  quit
	CMPQ AX, 64(BX)
	JNE  supervise
	MOVQ $2, 80(BX)
	MOVL 72(BX), AX
	MOVQ AX, 88(BX)
	MOVQ $0, 96(BX)

report:
	MOVL SYS_sendto, AX
	MOVL $3, DI
	LEAQ 80(BX), SI
	MOVL $24, DX
	MOVL $0x4000, R10            // MSG_NOSIGNAL
	XORL R8, R8
	XORL R9, R9
	SYSCALL
	TESTQ R14, R14
	JNE  quit
	CMPQ 56(BX), $0
	JNE  begin

quit:
	MOVL SYS_exit_group, AX
	XORL DI, DI
	SYSCALL

	// The mark by which image.go finds the end.
	BYTE $'p'; BYTE $'r'; BYTE $'o'; BYTE $'s'; BYTE $'c'; BYTE $'e'; BYTE $'n'; BYTE $'i'
	BYTE $'u'; BYTE $'m'; BYTE $' '; BYTE $'e'; BYTE $'n'; BYTE $'d'; BYTE $'.'; BYTE $0

TEXT ·initText(SB), NOSPLIT, $0-8
	LEAQ ·initProgram(SB), AX
	MOVQ AX, ret+0(FP)
	RET
