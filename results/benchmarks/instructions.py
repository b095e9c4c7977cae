"""Instructions of the innermost loops, counted in the machine code that numba makes for other processors too.

    python results/benchmarks/instructions.py

Nothing of it is run, so a machine without AVX-512 can count what one with it would do. The loop is the
smallest one that holds an instruction of its kind (a multiplication of masks, a round of AES). Where LLVM's
llvm-mca is installed, its estimate of the cycles stands beside the count; it takes memory to be free. The
masks of AArch64 are the same LLVM code, given to LLVM's other compiler; circuits have none there (OpenSSL and
numpy compute them).
"""

import json
import os
import re
import shutil
import subprocess
import sys

WIDE = "+vaes,+aes,+avx512f,+avx512vl,+avx512bw,+avx512dq"
#: (name, CPU as LLVM calls it, features beside its own, bits of mask vectors, blocks of an AES vector)
TARGETS = (
    ("SSE2, AES-NI", "westmere", "+aes", "256", 1),
    ("AVX2, VAES of 256 bits", "znver3", "+vaes,+aes,+avx2", "256", 2),
    ("AVX-512, VAES of 512 bits", "icelake-server", WIDE, "512", 4),
    ("AArch64, NEON", "neoverse-n1", None, "256", 0),
)  # fmt: skip


def loop(assembly: str, mark: str) -> list[str]:
    """The lines of the smallest loop that has an instruction whose name holds ``mark``."""
    lines, labels, best = assembly.splitlines(), {}, []
    for number, line in enumerate(lines):
        if found := re.match(r"(\.LBB\d+_\d+):", line):
            labels[found[1]] = number
        found = re.search(r"\s(?:j\w+|b\.\w+)\s+(\.LBB\d+_\d+)", line)
        if found and found[1] in labels:
            body = [
                text for text in lines[labels[found[1]] + 1 : number + 1]
                if re.match(r"\s+[a-z]", text) and "#" not in text.split()[0]
            ]  # fmt: skip
            if any(mark in text.split()[0] for text in body) and (not best or len(body) < len(best)):
                best = body
    return best


def cycles(body: list[str], cpu: str) -> float | None:
    """Cycles of one round of a loop, by llvm-mca."""
    tool = shutil.which("llvm-mca")
    if tool is None:
        return None
    done = subprocess.run(
        [tool, f"-mcpu={cpu}", "-iterations=100"], input="\n".join(body), capture_output=True, text=True
    )
    found = re.search(r"Total Cycles:\s+(\d+)", done.stdout)
    return int(found[1]) / 100 if found else None


def for_aarch64(function, cpu: str) -> str:
    """The assembly that LLVM makes of a compiled function for AArch64."""
    from llvmlite import binding

    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    code = function.inspect_llvm(function.signatures[0])
    for pattern in (r"target (triple|datalayout) = .*", r'"target-(cpu|features)"="[^"]*"'):
        code = re.sub(pattern, "", code)
    machine = binding.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu=cpu, opt=3)
    return machine.emit_assembly(binding.parse_assembly(code))


def count(width: int, cpu: str) -> dict:
    """Instructions and cycles of a mask, and of an AND gate garbled and evaluated."""
    from numba import njit, types

    from circa_train.gc.aes import compiled, passes, tape
    from circa_train.kernels.cpu import philox

    @njit(types.void(*[types.uint64] * 11, types.int64), nogil=True, error_model="numpy")
    def masks(base, steps, above, c2, c3, k0, k1, prime, threshold, found, rejected, lanes):
        numbers = above, c2, c3, k0, k1, prime, threshold
        philox._draw(numbers, base, steps, lanes, found, rejected)

    if not width:
        body = loop(for_aarch64(masks, cpu), "umull")
        return {"mask": (len(body) / (4 * philox._STEP), None)}
    together = passes.together(width)
    kinds = {
        "mask": (masks, "pmuludq", 4 * philox._STEP),
        "garble": (njit(compiled._TAPE)(tape.garble(width, "")), "aesenc", width * together // 4),
        "evaluate": (njit(compiled._TAPE)(tape.evaluate(width, "")), "aesenc", width * together // 2),
    }
    counted = {}
    for name, (function, mark, units) in kinds.items():
        body = loop(function.inspect_asm(function.signatures[0]), mark)
        told = cycles(body, cpu)
        counted[name] = (len(body) / units, None if told is None else told / units)
    return counted


if len(sys.argv) > 1:
    print(json.dumps(count(int(sys.argv[1]), sys.argv[2])))
    sys.exit()
print("| target | | instructions | cycles by llvm-mca |\n|---|---|---|---|")
for name, cpu, features, bits, width in TARGETS:
    variables = {"CIRCA_TRAIN_VECTOR_BITS": bits}
    if features is not None:
        variables |= {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
    command = [sys.executable, __file__, str(width), cpu]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    for what, (instructions, told) in json.loads(done.stdout).items():
        unit = "of a mask" if what == "mask" else f"to {what} an AND gate"
        print(f"| {name} | {unit} | {instructions:.1f} | {'' if told is None else f'{told:.1f}'} |")
