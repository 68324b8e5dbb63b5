"""What `vidgraph train FOLDER|TABLE` is asked for, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidgraph.data.grouping import Splits
from vidgraph.own_clips.heads import HeadResult
from vidgraph.records import InputSpec


@dataclass(frozen=True)
class ClipTraining:
    """What `vidgraph train FOLDER|TABLE` is asked for.

    Attributes:
        source: a folder with one folder per class, or a table.
        out: the run folder.
        columns: other names of the table's columns, as `parse_columns` takes them.
        group_by: a regular expression on the path of a clip; what it finds is the clip's group.
        backbone: which frozen eyes.
        frames: of each clip.
        size: rows and columns of the frames, the whole frame on grey.
        seed: of the splits and the heads.
        workers: processes that extract; None: one per core.
    """

    source: Path
    out: Path
    columns: str = ""
    group_by: str | None = None
    backbone: str = "timm:tf_efficientnet_lite0"
    frames: int = 8
    size: int = 288
    seed: int = 0
    workers: int | None = None

    @property
    def spec(self) -> InputSpec:
        """Which clip the model takes."""
        return InputSpec(self.frames, self.size, self.size, whole_video=True, fit="pad")

    @property
    def store(self) -> Path:
        """Where the features lie: beside the run folder, for other runs on the same clips."""
        name = f"{self.source.stem}-{self.backbone}-{self.frames}x{self.size}"
        return self.out.parent / "features" / "".join(c if c.isalnum() else "-" for c in name)


@dataclass
class ClipResult:
    """What came of it.

    Attributes:
        training: what was asked for.
        class_names: in the order of the model's outputs.
        splits: of the clips that were used.
        heads: baselines first.
        chosen: the index of the head that is the model.
        skipped: files that could not be used, and why.
        notes: what a person should know.
    """

    training: ClipTraining
    class_names: list[str]
    splits: Splits
    heads: list[HeadResult]
    chosen: int
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `scores.json` and `--json`."""
        heads = [
            {
                "name": head.plan.name,
                "kind": head.plan.kind,
                "val_accuracy": head.val_accuracy,
                "test_accuracy": head.test_accuracy,
                "interval": head.interval,
                "epochs": head.epochs,
                "seconds": round(head.seconds, 1),
                "chosen": number == self.chosen,
            }
            for number, head in enumerate(self.heads)
        ]
        counts = {
            str(name): int(n) for name, n in self.splits.frame["split"].value_counts().items()
        }
        return {"classes": self.class_names, "clips": counts, "heads": heads, "notes": self.notes}

    def to_text(self) -> str:
        """The table of scores, for people."""
        lines = [f"{'':<32}{'validation':>10}{'test':>8}   95 % interval by group"]
        for number, head in enumerate(self.heads):
            val = "" if head.val_accuracy is None else f"{100 * head.val_accuracy:.1f}"
            low, high = (100 * share for share in head.interval)
            mark = "   <- the model" if number == self.chosen else ""
            test = 100 * head.test_accuracy
            lines.append(
                f"{head.plan.name:<32}{val:>10}{test:>8.1f}   {low:.1f} to {high:.1f}{mark}"
            )
        return "\n".join(lines)
