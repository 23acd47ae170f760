"""The command ``fulcrum``: checks that its packages are its own, then hands over to the command line."""

from __future__ import annotations

import sys


def main() -> None:
    from fulcrum.guard import ForeignPackage, check_shipped, claim

    try:
        check_shipped()
        claim()
    except ForeignPackage as error:
        print(f"fulcrum: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    from pipelines.cli.app import run_app

    raise SystemExit(run_app())


if __name__ == "__main__":
    main()
