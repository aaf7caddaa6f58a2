# Culvert. The logic is in Go (cmd/mkimage, cmd/vmrun) and in scripts/; this file only names it.

BOARD ?= qemu-mips
SETTINGS ?=
# KERNEL_SRC=FILE_OR_DIR takes the kernel source from there instead of Debian's package.
export KERNEL_SRC
# ROWS=REGEXP measures only the rows of make bench whose ID matches.
export ROWS

# Not `go run`, which adds an "exit status 1" to every message.
MKIMAGE = go build -o out/bin/mkimage ./cmd/mkimage && out/bin/mkimage
BAKE = $(if $(SETTINGS),-settings '$(SETTINGS)')

.PHONY: help run demo test bench image images boards check clean

help:
	@echo 'make run                boot BOARD in QEMU, the shell of the router on this terminal'
	@echo 'make demo               five devices with VPN tunnels through the router, live on this terminal'
	@echo 'make test               all tests, those of the VPN lab included'
	@echo 'make bench              measure Culvert beside its peers; table, JSON and picture in out/bench; ROWS=REGEXP'
	@echo 'make image BOARD=...    the image of a board, below out/; SETTINGS=FILE bakes settings in'
	@echo 'make images             the images of all boards'
	@echo 'make boards             a table of the boards'
	@echo 'make check              gofmt, vet, staticcheck, import directions'
	@echo 'make clean              remove out/; the cache is $${XDG_CACHE_HOME:-~/.cache}/culvert'
	@echo
	@echo 'BOARD is $(BOARD). KERNEL_SRC=FILE_OR_DIR: kernel source that is not from Debian.'

run:
	@scripts/prepare image $(BOARD)
	@$(MKIMAGE) $(BAKE) $(BOARD)
	@if [ -n '$(SETTINGS)' ] && [ -e out/$(BOARD)/data.img ]; then \
		echo 'out/$(BOARD)/data.img keeps the settings of earlier runs; delete it to start with $(SETTINGS).'; fi
	@go build -o out/bin/vmrun ./cmd/vmrun
	@exec out/bin/vmrun -board $(BOARD) -data out/$(BOARD)/data.img

image:
	@scripts/prepare image $(BOARD)
	@$(MKIMAGE) $(BAKE) $(BOARD)

images:
	@scripts/prepare image
	@$(MKIMAGE)

boards:
	@scripts/prepare go
	@$(MKIMAGE) -boards

demo:
	@scripts/prepare demo
	@scripts/demo

test:
	@scripts/prepare test
	@scripts/test

bench:
	@scripts/prepare bench
	@scripts/bench

check:
	@scripts/prepare go
	@scripts/check

clean:
	rm -rf out
