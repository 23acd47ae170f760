"""The limit: every frame of every film decoded once with one thread, and nothing done with it."""

from __future__ import annotations

import sys

import av


def main(paths: list[str]) -> None:
    frames = 0
    for path in paths:
        with av.open(path) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            stream.codec_context.thread_type = "NONE"
            frames += sum(1 for _ in container.decode(stream))
    print(f"frames {frames}")


if __name__ == "__main__":
    main(sys.argv[1:])
