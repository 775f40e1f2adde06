"""Mutated inputs for every reader, and a runner that survives what they do: ``make fuzz``, ``docs/contributing.md``.

Our own small mutator instead of atheris or hypothesis: atheris needs clang and instrumented C libraries, where most of what can
crash here lives, and hypothesis builds values from nothing where we start from whole files of forty formats.
"""

import os

os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # its own reserves a gigabyte of addresses for one byte
