"""Lets the PyPI build of torch import without CUDA.

On Linux x86-64 that build links thirteen CUDA libraries, 2.1 GB of further wheels, although a CPU export calls none of
them. This writes stand-ins of a few kilobytes with the names, symbol names and symbol versions that the loader asks
for. Every function in them reports "no device", so torch takes its ordinary CPU path.

Usage: cpu_torch.py SITE_PACKAGES
"""

import collections
import pathlib
import re
import subprocess
import sys
import tempfile

CUDA_LIBRARY = re.compile(r"lib(cu|nv|nccl)")
CUDA_SYMBOL = re.compile(r"(__cuda|cu|nv|nccl)")
NO_DEVICE = 100  # cudaErrorNoDevice; every other CUDA library also treats non-zero as failure.


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(lib):
    present = {path.name for path in lib.glob("*.so*")}
    needed, defined, unversioned = set(), set(), set()
    versioned = collections.defaultdict(set)  # library -> {(symbol, version)}
    for library in sorted(lib.glob("*.so")):
        needed |= set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", library)))
        provider, home = None, {}
        for line in run("readelf", "-V", library).splitlines():
            if found := re.search(r"File: (\S+)", line):
                provider = found.group(1)
            if found := re.search(r"Name: (\S+)\s+Flags", line):
                home[found.group(1)] = provider
        for line in run("nm", "-D", "--undefined-only", library).splitlines():
            symbol, _, version = line.split()[-1].partition("@")
            if not version:
                unversioned.add(symbol)
            elif home.get(version):
                versioned[home[version]].add((symbol, version))
        defined |= {line.split()[-1].partition("@")[0] for line in run("nm", "-D", "--defined-only", library).splitlines()}

    # libcuda.so.1 is the driver: torch loads it on demand only.
    missing = sorted(name for name in needed - present - {"libcuda.so.1"} if CUDA_LIBRARY.match(name))
    loose = {symbol for symbol in unversioned - defined if CUDA_SYMBOL.match(symbol)}
    for name in missing:
        write_stand_in(lib / name, versioned[name], loose if name.startswith("libcudart") else set())
    print(f"torch on the CPU: {len(missing)} stand-ins for CUDA libraries")


def write_stand_in(path, versioned, loose):
    by_version = collections.defaultdict(set)
    for symbol, version in versioned:
        by_version[version].add(symbol)
    source = []
    for symbol in sorted(loose | {symbol for symbol, _ in versioned}):
        if re.search(r"(String|Name)$", symbol):
            source.append(f'const char *{symbol}(void) {{ return "no CUDA here"; }}')
        else:
            # The compiler's own hooks (__cuda…) run at load time and must succeed.
            source.append(f"long {symbol}(void) {{ return {0 if symbol.startswith('__') else NO_DEVICE}; }}")
    script = "".join(f"{v} {{ global: {' '.join(s + ';' for s in sorted(names))} }};\n" for v, names in by_version.items())
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "stand_in.c").write_text("\n".join(source) + "\n")
        (folder / "versions").write_text(script)
        command = ["cc", "-shared", "-fPIC", "-w", "-o", path, folder / "stand_in.c", f"-Wl,-soname,{path.name}"]
        if script:
            command.append(f"-Wl,--version-script={folder / 'versions'}")
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) / "torch" / "lib")
