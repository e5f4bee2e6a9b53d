"""How much memory it takes to read a text that is larger than the memory: by default 2 GB.

    python benchmarks/stream_memory.py [--megabytes 2000] [--folder FOLDER] [--tokens character]

Writes such a text, reads it, looks at pieces of it as training does, and removes it again. Prints the peak of the
resident memory beyond that after the imports, as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from rheostat.data.base import TokenStream
from rheostat.data.streams import read_stream

WORDS = ["the", "of", "and", "a", "to", "in", "is", "you", "that", "it", "he", "was", "for", "on", "are", "as", "with"]


def write(path: Path, size_bytes: int) -> None:
    """Lines of words, a million characters of them over and over."""
    generator = random.Random(0)
    lines = (" ".join(generator.choices(WORDS, k=12)).capitalize() + ".\n" for _ in range(25_000))
    block = "".join(lines).encode()
    with path.open("wb") as file:
        for _ in range(-(-size_bytes // len(block))):
            file.write(block)


def peak_megabytes() -> float:
    """The most that this process has had in memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB; bytes on macOS
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--tokens", default="character")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        os.chdir(folder)
        write(Path("corpus.txt"), arguments.megabytes * 10**6)
        before, start = peak_megabytes(), time.monotonic()
        data = read_stream(Path("corpus.txt"), tokens=arguments.tokens)
        seconds, after = time.monotonic() - start, peak_megabytes()
        assert isinstance(data.train, TokenStream)
        tokens = data.train.tokens
        for place in range(0, len(tokens) - 129, len(tokens) // 1000):
            tokens[place : place + 129].long()
        print(
            json.dumps(
                {
                    "megabytes": arguments.megabytes,
                    "tokens": sum(len(part) for part in (data.train, data.validation, data.test) if part is not None),
                    "before_megabytes": round(before),
                    "increase_megabytes": round(after - before),
                    "increase_after_training_steps_megabytes": round(peak_megabytes() - before),
                    "seconds": round(seconds, 1),
                }
            )
        )
        os.chdir("/")


if __name__ == "__main__":
    main()
