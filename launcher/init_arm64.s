#include "textflag.h"

// Init on arm64: the same program as init_amd64.s, which explains it.
//
//	R19 the buffer       R20 the current call     R21 the end of this part
//	R22 the part: 0 Init, 1 Child, 2 Parent       R23 which arguments are loads

#define BUFFER    $0x480000
#define CAPACITY  $0x100000
#define FORKER    $0x580000

#define SYS_read       $63
#define SYS_exit_group $94
#define SYS_sendto     $206
#define SYS_wait4      $260

#define ARGUMENT(bit, offset, register) \
	MOVD offset(R20), register; \
	TBZ  $bit, R23, 2(PC); \
	MOVD (register), register

TEXT ·initProgram(SB), NOSPLIT|NOFRAME, $0-0
	MOVD FORKER, R19
	B    plan

another:
	MOVD BUFFER, R19

plan:
	MOVD ZR, R20

read:
	MOVD SYS_read, R8
	MOVD $3, R0
	ADD  R20, R19, R1
	MOVD CAPACITY, R2
	SUB  R20, R2, R2
	SVC
	CMN  $4, R0                  // EINTR
	BEQ  read
	CMP  $0, R0
	BLE  quit
	ADD  R0, R20, R20
	MOVD 0(R19), R1
	CMP  R1, R20
	BLT  read

begin:
	MOVD ZR, 40(R19)
	MOVD 8(R19), R20
	MOVD 16(R19), R21
	MOVD ZR, R22

next:
	CMP  R21, R20
	BEQ  partDone
	MOVD 8(R20), R23
	ARGUMENT(0, 32, R0)
	ARGUMENT(1, 40, R1)
	ARGUMENT(2, 48, R2)
	ARGUMENT(3, 56, R3)
	ARGUMENT(4, 64, R4)
	ARGUMENT(5, 72, R5)
	MOVD (R20), R8
	SVC
	MOVD R0, 24(R20)
	MOVD 56(R19), R1
	CMP  R1, R20
	BEQ  request
	CMN  $4095, R0
	BLO  advance
	NEG  R0, R0
	MOVD 16(R20), R1
	CMP  R1, R0
	BNE  failed

advance:
	ADD  $80, R20, R20
	B    next

request:
	MOVD 16(R20), R1
	CMP  R1, R0
	BEQ  advance
	B    quit

failed:
	MOVD 40(R19), R1
	CBNZ R1, told
	MOVD $1, R1
	MOVD R1, 40(R19)
	MOVD R20, 88(R19)
	MOVD R0, 96(R19)
told:
	CBNZ R22, report
	MOVD 56(R19), R1
	CBZ  R1, report
	CMP  R19, R20
	BEQ  report
	CMP  R1, R20
	BHI  quit
	B    advance

partDone:
	CMP  $1, R22
	BEQ  another
	BHI  parentDone
	MOVD 40(R19), R1
	CBNZ R1, report
	MOVD 48(R19), R8
	CBZ  R8, plan
	MOVD 104(R19), R0
	MOVD 112(R19), R1
	MOVD 120(R19), R2
	MOVD ZR, R3
	MOVD ZR, R4
	SVC
	CMP  $0, R0
	BEQ  child
	BGT  parent
	NEG  R0, R0
	MOVD R19, R20
	B    failed

child:
	MOVD 24(R19), R21
	MOVD $1, R22
	B    next

parent:
	MOVD 56(R19), R1
	CBNZ R1, begin
	MOVD R0, 64(R19)
	MOVD 40(R19), R1
	CBNZ R1, quit
	MOVD 24(R19), R20
	MOVD 32(R19), R21
	MOVD $2, R22
	B    next

parentDone:
supervise:
	MOVD SYS_wait4, R8
	MOVD $-1, R0
	ADD  $72, R19, R1
	MOVD $0x40000000, R2         // __WALL
	MOVD ZR, R3
	SVC
	CMN  $4, R0                  // EINTR
	BEQ  supervise
	CMP  $0, R0
	BLT  quit
	MOVD 64(R19), R1
	CMP  R1, R0
	BNE  supervise
	MOVD $2, R1
	MOVD R1, 80(R19)
	MOVWU 72(R19), R1
	MOVD R1, 88(R19)
	MOVD ZR, 96(R19)

report:
	MOVD SYS_sendto, R8
	MOVD $3, R0
	ADD  $80, R19, R1
	MOVD $24, R2
	MOVD $0x4000, R3             // MSG_NOSIGNAL
	MOVD ZR, R4
	MOVD ZR, R5
	SVC
	CBNZ R22, quit
	MOVD 56(R19), R1
	CBNZ R1, begin

quit:
	MOVD SYS_exit_group, R8
	MOVD ZR, R0
	SVC

	// The mark by which image.go finds the end: "proscenium end.\0".
	WORD $0x736f7270; WORD $0x696e6563; WORD $0x65206d75; WORD $0x002e646e

TEXT ·initText(SB), NOSPLIT, $0-8
	MOVD $·initProgram(SB), R0
	MOVD R0, ret+0(FP)
	RET
