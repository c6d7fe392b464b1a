"""Runs a model in a background process that takes no time or memory from the loop.

The process has one thread with idle priority, and is the first that the system kills when memory runs out.
`python -m edgebcnn.monitor.background MODEL PREPROCESSING CLASSES` is that process: it reads pixels from its input and
writes one line of JSON per image, until its input ends, which it does when the main process ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn import errors
from edgebcnn.bundle import Label
from edgebcnn.device.admission import own_environment
from edgebcnn.device.classifier import Classifier
from edgebcnn.device.runtime import load_runtime
from edgebcnn.errors import BundleError, DeviceError, EdgebcnnError
from edgebcnn.preprocessing import Preprocessing

START_S = 120.0
POLL_S = 1.0  # how often a wait reports that it still waits
INFERENCE_S = 600.0  # on a machine that is always busy, a process with idle priority runs rarely
LOWEST_PRIORITY = 19  # niceness, where the system has no idle scheduling


@dataclass(frozen=True)
class Inference:
    """The predicted product of an image, and the CPU time of the inference."""

    class_id: int
    cpu_s: float


class BackgroundModel:
    """A model file in a background process.

    Args:
        model: The file.
        preprocessing: Turns a frame into the model's input.
        classes: Number of products.
        waiting: Called each second while the process starts.

    Attributes:
        cpu_s: CPU time of the start.

    Raises:
        DeviceError: the runtime cannot load the file, or the process ended.
        BundleError: its input or output has another size.
    """

    def __init__(
        self, model: Path, *, preprocessing: Preprocessing, classes: int, waiting: Callable[[], None] = lambda: None
    ) -> None:
        self._name = model.name
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, model.resolve(), preprocessing.model_dump_json(), str(classes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=own_environment(),
            start_new_session=True,  # Ctrl-C reaches the main process alone
        )
        try:
            self.cpu_s = float(self._reply(START_S, waiting)["cpu_s"])
        except BaseException:
            self.end()
            raise

    def infer(self, pixels_rgb: NDArray[np.uint8]) -> Inference:
        """Classifies one preprocessed image `(height_px, width_px, 3)` uint8 RGB, and waits for the result.

        Raises:
            DeviceError: the process ended, or returns no result.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(pixels_rgb.tobytes())
            self._process.stdin.flush()
        except OSError as error:
            raise self._ended() from error
        return Inference(**self._reply(INFERENCE_S))

    def end(self) -> None:
        """Ends the process at once; safe to call from any thread."""
        self._process.kill()
        self._process.wait()

    def _reply(self, timeout_s: float, waiting: Callable[[], None] = lambda: None) -> dict[str, Any]:
        stdout, give_up_s = self._process.stdout, time.monotonic() + timeout_s
        assert stdout is not None
        while not select.select([stdout], [], [], POLL_S)[0]:
            waiting()
            if time.monotonic() > give_up_s:
                raise DeviceError(f"{self._name} gave no result within {timeout_s:.0f} s")
        line = stdout.readline()
        if not line.endswith(b"\n"):
            raise self._ended()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            kind: type[EdgebcnnError] = getattr(errors, reply["error"])
            raise kind(reply["message"])
        return reply

    def _ended(self) -> DeviceError:
        code = self._process.wait()
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        last = [line for line in lines if not line.startswith("INFO: ")][-1:]
        return DeviceError(f"the process of {self._name} ended {how}{f' ({last[0]})' if last else ''}")


def main(model: Path, preprocessing: Preprocessing, classes: int) -> None:
    """Loads the model, lowers the priority of this process, and classifies images until its input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints must not mix with the replies

    def reply(**fields: object) -> None:
        print(json.dumps(fields), file=replies, flush=True)

    try:
        classifier = _loaded(model, preprocessing, classes)
    except EdgebcnnError as error:
        reply(error=type(error).__name__, message=str(error))
        return
    _lower_priority()
    reply(cpu_s=time.process_time())
    shape = (preprocessing.height_px, preprocessing.width_px, 3)
    while len(content := sys.stdin.buffer.read(int(np.prod(shape)))) == np.prod(shape):
        begun_s = time.process_time()
        probabilities = classifier.probabilities(np.frombuffer(content, np.uint8).reshape(1, *shape))
        reply(class_id=int(probabilities.argmax()), cpu_s=time.process_time() - begun_s)


def _loaded(model: Path, preprocessing: Preprocessing, classes: int) -> Classifier:
    runtime = load_runtime(model, threads=1)
    expected = (1, preprocessing.height_px, preprocessing.width_px, 3), (1, classes)
    if (found := (runtime.input.shape, runtime.output.shape)) != expected:
        raise BundleError(
            f"{model} turns {found[0]} into {found[1]} and the bundle {expected[0]} into {expected[1]}: "
            "give the full model that the bundle was made from"
        )
    labels = [Label(name=str(class_id)) for class_id in range(classes)]
    return Classifier(runtime, labels, preprocessing=preprocessing, precision="float32")


def _lower_priority() -> None:
    os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)
    if sys.platform == "linux":
        with suppress(OSError):  # a container may forbid it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Preprocessing.model_validate_json(sys.argv[2]), int(sys.argv[3]))
