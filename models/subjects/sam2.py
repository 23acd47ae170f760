"""SAM 2 (arXiv 2408.00714) as a segmenter of pictures and a tracker through clips, by transformers' own classes."""

from __future__ import annotations

import numpy as np

from models.subjects.protocols import U8, Box, Proposal, Region
from models.subjects.weights import Weights

KIND = "sam2"


class Sam2Segmenter:
    """One mask per box."""

    def __init__(self, weights: Weights, *, device: str = "cpu") -> None:
        from models.compat import prepare

        prepare()
        from transformers import Sam2Model, Sam2Processor

        self.name = weights.name(KIND)
        self.device = device
        self.model = weights.load(Sam2Model, device)
        self.processor = weights.processor(Sam2Processor)

    def segment(self, picture_HWC: U8, proposal: Proposal) -> Region | None:
        """See ``Segmenter.segment``; the confidence is the proposal's times the IoU that the model expects of its mask."""
        import torch

        height, width = picture_HWC.shape[:2]
        x0, y0, x1, y1 = proposal.box
        box = [[[x0 * width, y0 * height, x1 * width, y1 * height]]]
        inputs = self.processor(images=picture_HWC, input_boxes=box, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            outputs = self.model(**inputs, multimask_output=False)
        masks = self.processor.post_process_masks(outputs.pred_masks.cpu(), inputs["original_sizes"].cpu())[0]
        mask = np.where(masks[0, 0].numpy() > 0, 255, 0).astype(np.uint8)
        bounds = box_of(mask)
        if bounds is None:
            return None
        expected = float(outputs.iou_scores.flatten()[0].clamp(0.0, 1.0))
        return Region(bounds, mask, proposal.confidence * expected, proposal.phrase)


class Sam2Tracker:
    """Follows masks from one frame through a whole clip, both ways."""

    def __init__(self, weights: Weights, *, device: str = "cpu") -> None:
        from models.compat import prepare

        prepare()
        from transformers import Sam2VideoModel, Sam2VideoProcessor

        self.name = weights.name(f"{KIND}-video")
        self.device = device
        self.model = weights.load(Sam2VideoModel, device)
        self.processor = weights.processor(Sam2VideoProcessor)

    def track(self, frames_FHWC: U8, at: int, mask_HW: U8) -> list[U8]:
        """See ``Tracker.track``."""
        import torch

        height, width = frames_FHWC.shape[1:3]
        if mask_HW.shape != (height, width):
            raise ValueError(f"the mask is {mask_HW.shape}, its frame {(height, width)}: they must have one size")
        found: list[U8] = [np.zeros((height, width), np.uint8) for _ in frames_FHWC]
        for reverse in (False, True):
            session = self.processor.init_video_session(video=list(frames_FHWC), inference_device=self.device)
            self.processor.add_inputs_to_inference_session(
                inference_session=session, frame_idx=at, obj_ids=1, input_masks=[(mask_HW > 127)]
            )
            with torch.inference_mode():
                self.model(inference_session=session, frame_idx=at)
                for seen in self.model.propagate_in_video_iterator(session, start_frame_idx=at, reverse=reverse):
                    masks = self.processor.post_process_masks(
                        [seen.pred_masks.cpu()], original_sizes=[[height, width]], binarize=True
                    )[0]
                    found[seen.frame_idx] = np.where(masks[0, 0].numpy() > 0, 255, 0).astype(np.uint8)
        found[at] = mask_HW
        return found


def box_of(mask_HW: U8) -> Box | None:
    """The box that encloses a mask, as shares of width and height; None for an empty one."""
    height, width = mask_HW.shape
    rows, columns = np.flatnonzero((mask_HW > 127).any(1)), np.flatnonzero((mask_HW > 127).any(0))
    if not len(rows):
        return None
    return (
        float(columns[0] / width),
        float(rows[0] / height),
        float((columns[-1] + 1) / width),
        float((rows[-1] + 1) / height),
    )
