"""The usual way: a script for each step, a process for each script, and every script opens the videos again.

    python -m benchmarks.curation.script_way scenes|cut|motion|similarity FILMS.json WORKDIR [WEIGHTS]

Scenes by PySceneDetect with its own reader and defaults, every clip cut by ffmpeg, Farneback flow at full size on two frames a
second, and CLIP on three frames of each clip against the caption.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

CRF = 22
STEPS = ("scenes", "cut", "motion", "similarity")


def scenes(films: list[dict[str, Any]], work: Path) -> None:
    from scenedetect import ContentDetector, detect

    found: list[dict[str, Any]] = []
    for film in films:
        spans = [(a.seconds, b.seconds) for a, b in detect(film["path"], ContentDetector())]
        found.extend({"film": film["path"], "caption": film["caption"], "span": span}
                     for span in spans or [(0.0, film["seconds"])])  # fmt: skip
    (work / "scenes.json").write_text(json.dumps(found), encoding="utf-8")


def cut(films: list[dict[str, Any]], work: Path) -> None:
    clips = []
    for number, scene in enumerate(json.loads((work / "scenes.json").read_text(encoding="utf-8"))):
        start, end = scene["span"]
        out = work / f"clip-{number:05d}.mp4"
        subprocess.run(
            ["ffmpeg", "-nostdin", "-loglevel", "error", "-y", "-ss", f"{start:.3f}", "-i", scene["film"],
             "-t", f"{end - start:.3f}", "-c:v", "libx264", "-preset", "veryfast", "-crf", str(CRF), "-an", str(out)],
            check=True,
        )  # fmt: skip
        clips.append({"path": str(out), "caption": scene["caption"]})
    (work / "clips.json").write_text(json.dumps(clips), encoding="utf-8")


def motion(films: list[dict[str, Any]], work: Path) -> None:
    import cv2
    import numpy as np

    scores = {}
    for clip in json.loads((work / "clips.json").read_text(encoding="utf-8")):
        video = cv2.VideoCapture(clip["path"])
        every = max(1, round((video.get(cv2.CAP_PROP_FPS) or 30) / 2))
        before, speeds, index = None, [], 0
        while video.grab():
            if index % every == 0:
                ok, picture = video.retrieve()
                if not ok:
                    break
                gray = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
                if before is not None:
                    flow = cv2.calcOpticalFlowFarneback(before, gray, None, 0.5, 3, 15, 3, 5, 1.2, 0)
                    speeds.append(float(np.linalg.norm(flow, axis=2).mean()))
                before = gray
            index += 1
        scores[clip["path"]] = float(np.mean(speeds)) if speeds else None
    (work / "motion.json").write_text(json.dumps(scores), encoding="utf-8")


def similarity(films: list[dict[str, Any]], work: Path, weights: str) -> None:
    from models.compat import prepare

    prepare()
    import decord
    import numpy as np
    import open_clip
    import torch
    from PIL import Image

    model, _, transform = open_clip.create_model_and_transforms("ViT-B-32", pretrained=weights)
    model.eval()
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    scores, pictures = {}, 0
    with torch.inference_mode():
        for clip in json.loads((work / "clips.json").read_text(encoding="utf-8")):
            video = decord.VideoReader(clip["path"], num_threads=1)
            at = np.linspace(0, len(video) - 1, 3).round().astype(int).tolist()
            images = torch.stack([transform(Image.fromarray(f)) for f in video.get_batch(at).asnumpy()])
            a = torch.nn.functional.normalize(model.encode_image(images), dim=-1)
            b = torch.nn.functional.normalize(model.encode_text(tokenizer([clip["caption"]])), dim=-1)
            scores[clip["path"]] = float((a @ b.T).mean())
            pictures += len(at)
    (work / "similarity.json").write_text(json.dumps(scores), encoding="utf-8")
    print(f"pictures {pictures}")


def main(step: str, films: str, work: str, *weights: str) -> None:
    listed = json.loads(Path(films).read_text(encoding="utf-8"))
    if step == "similarity":
        similarity(listed, Path(work), *weights)
    else:
        {"scenes": scenes, "cut": cut, "motion": motion}[step](listed, Path(work))


if __name__ == "__main__":
    main(*sys.argv[1:])
