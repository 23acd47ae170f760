"""``python -m benchmarks.reproduction [--minutes N]``: runs missing cells for so long, then writes docs/reproduction.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.reproduction import page, plan, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reproduction", description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.0, help="how long to run; 0 writes the page alone")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time, each on one core")
    parser.add_argument("--work", type=Path, default=Path("build/reproduction"), help="rendered worlds and the store")
    parser.add_argument("--freeze", action="store_true", help="write the plan anew; results of another one are removed")
    chosen = parser.parse_args()
    if chosen.freeze:
        print(f"the plan is {plan.freeze()[:16]}")
    frozen, here = plan.committed(), plan.make_plan()
    if frozen is None or frozen["digest"] != here["digest"]:
        print(
            "settings, hypotheses or models are not those of the committed plan (docs/reproduction/plan.json). Take the change "
            "back, or call with --freeze: that empties the table.",
            file=sys.stderr,
        )
        return 2
    if chosen.minutes:
        run.run(here["digest"], chosen.work, chosen.minutes, chosen.jobs)
    print(f"{page.write(here['digest'])} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
