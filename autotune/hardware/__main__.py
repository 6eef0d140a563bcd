"""``python -m autotune.hardware NAME --output FILE``: measure a profile to be published under a name.

It is measured anew, apart from the cache, and the host's name is left out.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from autotune.errors import UsageError
from autotune.hardware.cache import DEFAULT_BUDGET_S, Step, measure_profile, scratch_folder, write_atomically
from autotune.hardware.fingerprint import current_environment
from autotune.hardware.measure import measure_noisy_again
from autotune.hardware.shapes import DEFAULT_SHAPES, parse_shape
from autotune.hardware.tiers import RAM_DISK, TierPair


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; 0 when done, 2 for bad usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m autotune.hardware", description="Measure a profile to publish.")
    parser.add_argument("name", help="the profile's name, such as h200")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--tier-pair", default=RAM_DISK.name, help="ram<-disk or gpu<-host")
    parser.add_argument("--shape", action="append", help="such as ffn:hidden=2048,inter=768; may be repeated")
    parser.add_argument("--scratch", type=Path, help="folder on the disk to measure; by default the cache folder")
    parser.add_argument("--budget", type=float, default=DEFAULT_BUDGET_S, help="seconds")
    parser.add_argument("--patience", type=float, default=0.0, help="seconds to wait for quiet and repeat noisy curves")
    parser.add_argument("--file-mib", type=int, default=1024, help="size of the scratch file")
    options = parser.parse_args(given)
    try:
        pair = TierPair.parse(options.tier_pair)
        shapes = [parse_shape(text) for text in options.shape] if options.shape else list(DEFAULT_SHAPES)
        folder = scratch_folder(options.scratch) if pair.slow_device is None else None
        profile = measure_profile(
            pair,
            current_environment(folder),
            shapes,
            folder=folder,
            file_bytes=options.file_mib * 2**20,
            budget_s=options.budget,
            progress=_show,
            command=shlex.join(["python", "-m", "autotune.hardware", *given]),
        )
        profile = measure_noisy_again(profile, options.patience)
        write_atomically(options.output, profile.published(options.name).to_json())
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for warning in profile.warnings():
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def _show(step: Step) -> None:
    print(f"[{step.number}/{step.total}] {step.what}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
