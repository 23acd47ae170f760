"""NeMo Curator's CPU stages for video, one after another in one process of its own environment (see run.py).

    python nemo_way.py FILMS.json

Reader, fixed stride of 10 s, transcoding of every clip, motion vectors, motion filter. On a CPU it has no shot detection, no
CLIP, no text score and no dedupe. It imports nothing of this project.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(films: str) -> None:
    from nemo_curator.stages.video.clipping.clip_extraction_stages import (
        ClipTranscodingStage,
        FixedStrideExtractorStage,
    )
    from nemo_curator.stages.video.filtering.motion_filter import MotionFilterStage, MotionVectorDecodeStage
    from nemo_curator.stages.video.io.video_reader import VideoReaderStage
    from nemo_curator.tasks import FileGroupTask

    stages = [
        VideoReaderStage(),
        FixedStrideExtractorStage(clip_len_s=10.0, clip_stride_s=10.0, min_clip_length_s=2.0, limit_clips=0),
        ClipTranscodingStage(encoder="libopenh264"),
        MotionVectorDecodeStage(),
        MotionFilterStage(),
    ]
    for stage in stages:
        if hasattr(stage, "setup"):
            stage.setup()
    kept = lost = 0
    for film in json.loads(Path(films).read_text(encoding="utf-8")):
        tasks = [FileGroupTask(dataset_name="films", data=[film["path"]])]
        for stage in stages:
            found = []
            for task in tasks:
                result = stage.process(task)
                found.extend(result if isinstance(result, list) else [result])
            tasks = found
        kept += sum(len(t.data.clips) for t in tasks)
        lost += sum(len(t.data.filtered_clips) for t in tasks)
    print(f"kept {kept} filtered {lost}")


if __name__ == "__main__":
    main(sys.argv[1])
