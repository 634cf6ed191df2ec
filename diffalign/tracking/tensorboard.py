"""Shows training curves in TensorBoard: event files of all their figures, and of the probes' pictures."""

import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image

from diffalign.core.errors import UserError
from diffalign.core.files import RUNS
from diffalign.runtime.processes import bound, end_group
from diffalign.tracking.live import Tail
from diffalign.tracking.pictures import STEP

FOLDER = RUNS / "tensorboard"
INTERVAL = 5.0
"""Seconds between looks at the curves."""


class Events:
    """Writes event files of all curves into a folder, anew, and on `update` what has come since."""

    def __init__(self, folder: Path) -> None:
        """Empties the folder; UserError without the extra `tensorboard`."""
        if importlib.util.find_spec("tensorboard") is None:
            raise UserError("expected TensorBoard, found none. Install the extra: pip install -e '.[tensorboard]'")
        shutil.rmtree(folder, ignore_errors=True)
        self.folder = folder
        self.curves: dict[str, tuple[Tail, Any]] = {}
        self.pictures: set[Path] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, writer in self.curves.values():
            writer.close()

    def update(self) -> None:
        """Adds the lines that curves have got, and the probes' pictures; a training that runs is `NAME (running)`."""
        for name, path in sources().items():
            tail, writer = self.curves.setdefault(name, (Tail(path, 0), None))
            points = tail.read()
            if not points:
                continue
            writer = writer or self.open(name)
            self.curves[name] = tail, writer
            for point in points:
                writer.add_event(scalar(point.key, point.value, point.step))
            tail.accept()
            folder = (
                path.resolve().parent / "pictures" if path.is_symlink() else Path("models/policies") / name / "probe"
            )
            for picture in sorted(set(folder.glob("step-*.png")) - self.pictures):
                writer.add_event(image(picture))
                self.pictures.add(picture)
            writer.flush()

    def open(self, name: str) -> Any:
        """Returns a writer of a curve's event file."""
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        return EventFileWriter(str(self.folder / name))


def sources() -> dict[str, Path]:
    """Returns the curves by the names that they have in TensorBoard: those published, and those that grow now."""
    published = {
        path.relative_to("curves").with_suffix("").as_posix(): path for path in Path("curves").rglob("*.jsonl")
    }
    live = [path for path in (RUNS / "live").glob("*.jsonl") if path.exists()]  # not the links that training left
    return published | {f"{path.stem.partition('@')[2]} (running)": path for path in sorted(live)}


def scalar(tag: str, value: float, step: int) -> Any:
    """Returns the event of a figure at a step."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Event(wall_time=time.time(), step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))


def image(path: Path) -> Any:
    """Returns the event of a probe's picture, `step-XXXXXX.png`."""
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    with Image.open(path) as picture:
        width, height = picture.size
    shown = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes())
    match = STEP.fullmatch(path.name)
    return Event(
        wall_time=time.time(),
        step=int(match[1]) if match else 0,
        summary=Summary(value=[Summary.Value(tag="probe", image=shown)]),
    )


def run(port: int, serve: bool = True) -> None:
    """Writes event files to `runs/tensorboard`, serves them on loopback and keeps them up to date until stopped."""
    with Events(FOLDER) as events:
        events.update()
        sys.stdout.write(f"TensorBoard's event files of {len(events.curves)} curves: {FOLDER}\n")
        if not serve:
            return
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(FOLDER), "--host", "127.0.0.1"]
        command += ["--port", str(port), "--reload_interval", str(int(INTERVAL))]
        sys.stdout.write(f"TensorBoard, until Ctrl-C: http://127.0.0.1:{port}/\n")
        sys.stdout.flush()
        process = subprocess.Popen(bound(command), start_new_session=True, text=True)
        try:
            while process.poll() is None:
                time.sleep(INTERVAL)
                events.update()
        finally:
            end_group(process)
