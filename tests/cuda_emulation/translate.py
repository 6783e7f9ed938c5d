"""Rewrite what is not C++ in a .cu file, so that a C++ compiler takes it: launches and shared memory.

python translate.py IN.cu OUT.cpp
"""

import re
import sys
from pathlib import Path

OPENING = {"(": ")", "[": "]", "{": "}"}


def closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for place in range(start, len(text)):
        if text[place] in OPENING:
            depth += 1
        elif text[place] in OPENING.values():
            depth -= 1
            if depth == 0:
                return place
    raise ValueError(f"no bracket closes {text[start : start + 40]!r}")


def translate(text: str) -> str:
    """The same lines, in C++."""
    # kernel<<<grid, block, bytes, stream>>>(arguments)
    while found := re.search(r"(\w+(?:<[^<>;]*>)?)\s*<<<", text):
        kernel, end = found[1], text.index(">>>", found.end())
        opening = re.compile(r"\s*\(").match(text, end + 3)
        if opening is None:
            raise ValueError(f"no arguments follow the launch of {kernel}")
        last = closing(text, opening.end() - 1)
        call = f"{kernel}{text[opening.end() - 1 : last + 1]}"
        options = f'{{"{kernel}", {text[found.end() : end]}}}'
        newlines = "\n" * (found[0].count("\n") + opening[0].count("\n"))
        text = f"{text[: found.start()]}::emulation::launch({options}, [&] {{ {call}; }}){newlines}{text[last + 1 :]}"
    text = re.sub(
        r"extern __shared__[^;]*?(\w+)\[\];",
        r"unsigned char* const \1 = ::emulation::launched_shared_memory();",
        text,
    )
    text = re.sub(
        r"__shared__ ([^;,\[\]]+?) (\w+)((?:\[[^;,\[\]]*\])*);",
        r"auto& \2 = ::emulation::shared<\1\3, __LINE__>();",
        text,
    )
    for left in ("<<<", "__shared__"):
        if left in re.sub(r"//.*", "", text):
            raise ValueError(f"{left} is left over")
    return text


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f'#line 1 "{source}"\n' + translate(source.read_text()))
