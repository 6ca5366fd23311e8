#!/usr/bin/env python3
"""Compiles the kernels: each .cu here to PTX by NVRTC, and that by ptxas for each architecture it knows of ours.

    compile.py [FOLDER]    writes FOLDER/*.ptx (default: ptx beside this file), prints each kernel's registers

Fails if a kernel spills registers to local memory. Run it by the Python of `.venv`, which `make kernels` makes: NVRTC and
ptxas are NVIDIA's wheels. No GPU and no CUDA installation are needed.
"""

import ctypes
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
# What the PTX is made for; the driver compiles it further for what it finds.
VIRTUAL = "compute_80"
REAL = ["sm_80", "sm_90", "sm_100", "sm_120"]
OPTIONS = [f"--gpu-architecture={VIRTUAL}", "--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true",
           "--std=c++17", f"--include-path={HERE}", "--restrict"]
# The oldest PTX that knows compute_80. NVRTC writes its own version, which drivers older than it refuse; the kernels use
# nothing newer, as ptxas confirms below.
PTX_VERSION = "7.0"


def wheel(path):
    for root in map(pathlib.Path, sys.path):
        found = sorted(root.glob(f"nvidia/**/{path}"))
        if found:
            return found[0]
    sys.exit(f"compile.py: no {path}: run `make kernels`")


class Nvrtc:
    def __init__(self):
        self.library = ctypes.CDLL(str(wheel("libnvrtc.so.1*")))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def text(self, of, size_of, program):
        size = ctypes.c_size_t()
        size_of(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        of(program, text)
        return text.value.decode()

    def compile(self, source):
        program = ctypes.c_void_p()
        created = self.library.nvrtcCreateProgram(
            ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None)
        if created != 0:
            sys.exit(f"{source.name}: {self.library.nvrtcGetErrorString(created).decode()}")
        options = (ctypes.c_char_p * len(OPTIONS))(*(option.encode() for option in OPTIONS))
        if self.library.nvrtcCompileProgram(program, len(OPTIONS), options) != 0:
            log = self.text(self.library.nvrtcGetProgramLog, self.library.nvrtcGetProgramLogSize, program)
            sys.exit(f"{source.name}:\n{log}")
        return self.text(self.library.nvrtcGetPTX, self.library.nvrtcGetPTXSize, program)


def portable(ptx):
    """Without what differs between builds of one compiler, and for any driver that knows the architecture."""
    ptx = re.sub(r"^//.*\n", "", ptx, flags=re.MULTILINE).strip() + "\n"
    return re.sub(r"^\.version .*$", f".version {PTX_VERSION}", ptx, count=1, flags=re.MULTILINE)


def assemble(ptxas, ptx):
    """Lines of a table; fails on spills."""
    known = subprocess.run([ptxas, "--help"], capture_output=True, text=True, check=True).stdout
    for architecture in REAL:
        if f"'{architecture}'" not in known:
            print(f"{ptx.stem:10} {architecture}: not known to this ptxas")
            continue
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            result = subprocess.run(
                [ptxas, "-v", "--warn-on-spills", f"--gpu-name={architecture}", f"--output-file={cubin.name}", ptx],
                capture_output=True, text=True)
        if result.returncode != 0:
            sys.exit(f"{ptx.name} for {architecture}:\n{result.stderr}")
        kernels = re.findall(
            r"Compiling entry function '(\w+)' for '\w+'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
            r"(\d+) bytes spill loads.*?Used (\d+) registers([^\n]*)", result.stderr, flags=re.DOTALL)
        if len(kernels) != ptx.read_text().count(".visible .entry"):
            sys.exit(f"{ptx.name} for {architecture}: what ptxas says is not understood:\n{result.stderr}")
        for name, stack, stores, loads, registers, rest in sorted(kernels):
            shared = re.search(r"(\d+) bytes smem", rest)
            print(f"{name:24} {architecture:8} {registers:>4} registers, {stores} + {loads} bytes spilled, "
                  f"{stack} of stack, {shared[1] if shared else 0} shared")
            if int(stores) or int(loads):
                sys.exit(f"{name} spills registers on {architecture}")


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "ptx"
    folder.mkdir(parents=True, exist_ok=True)
    nvrtc = Nvrtc()
    ptxas = str(wheel("bin/ptxas"))
    for source in sorted(HERE.glob("*.cu")):
        ptx = folder / f"{source.stem}.ptx"
        ptx.write_text(portable(nvrtc.compile(source)))
        assemble(ptxas, ptx)


if __name__ == "__main__":
    main()
