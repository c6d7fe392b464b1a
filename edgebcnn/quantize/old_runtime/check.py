"""Checks that tflite-runtime 2.14 runs a model file and gives the same predictions as LiteRT.

It alone has wheels for 32-bit ARM. It refuses a file with one op that it does not know in that version; so the file is
read first, and where an environment with that runtime is named, the file runs there as well.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from edgebcnn.bundle import Precision
from edgebcnn.errors import DeviceError, QuantizationError
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.progress import Advance
from edgebcnn.quantize.inspect.audit import op_name
from edgebcnn.quantize.inspect.layer_error import as_input
from edgebcnn.report.agreement import Proportion, agreement

OLD_RUNTIME = "tflite-runtime 2.14"

INSTALL = "python3.11 -m venv old && old/bin/pip install 'numpy<2' tflite-runtime==2.14.0"
"""How an environment with it is made."""

_READER = Path(__file__).with_name("reader.py")

_NEWEST = """
    1: ADD_N ASSIGN_VARIABLE ATAN2 BITCAST BITWISE_XOR BROADCAST_ARGS BUCKETIZE CALL_ONCE CEIL COMPLEX_ABS
       CONV_3D CONV_3D_TRANSPOSE COS CUMSUM DENSIFY DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP_SPARSE
       EXPAND_DIMS FLOOR HARD_SWISH HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_LOOKUP HASHTABLE_SIZE
       IF IMAG L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LSH_PROJECTION
       MATRIX_DIAG MATRIX_SET_DIAG MULTINOMIAL NEG NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 ONE_HOT POW
       PRELU RANDOM_STANDARD_NORMAL RANDOM_UNIFORM RANK READ_VARIABLE REAL REDUCE_ALL REDUCE_ANY RELU_0_TO_1
       RELU_N1_TO_1 RESHAPE REVERSE_SEQUENCE RFFT2D RIGHT_SHIFT ROUND SCATTER_ND SEGMENT_SUM SHAPE SIN
       SKIP_GRAM SQRT SQUARE UNIQUE UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_MIN UNSORTED_SEGMENT_PROD
       UNSORTED_SEGMENT_SUM VAR_HANDLE WHILE ZEROS_LIKE
    2: DEPTH_TO_SPACE DIV EXP FAKE_QUANT FLOOR_MOD GELU GREATER L2_NORMALIZATION LEAKY_RELU LESS_EQUAL
       LOG_SOFTMAX RANGE REDUCE_PROD RSQRT SELECT_V2 SIGN SPACE_TO_DEPTH SPLIT_V SQUARED_DIFFERENCE SQUEEZE
       SUM WHERE
    3: ARG_MAX ARG_MIN AVERAGE_POOL_2D BIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN BROADCAST_TO
       EMBEDDING_LOOKUP FLOOR_DIV GREATER_EQUAL LESS LOGISTIC MAX_POOL_2D MEAN MIRROR_PAD NOT_EQUAL QUANTIZE
       REDUCE_MAX REDUCE_MIN RELU RELU6 REVERSE_V2 RNN SOFTMAX SPARSE_TO_DENSE TANH TILE TOPK_V2
       UNIDIRECTIONAL_SEQUENCE_RNN
    4: BATCH_MATMUL BATCH_TO_SPACE_ND CONCATENATION EQUAL FILL GATHER_ND LSTM MAXIMUM MINIMUM PACK PAD PADV2
       RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SELECT SPACE_TO_BATCH_ND SPLIT SVDF TRANSPOSE_CONV
       UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK
    5: ABS ADD CAST DEQUANTIZE SUB
    6: GATHER SLICE TRANSPOSE
    7: CONV_2D DEPTHWISE_CONV_2D MUL
    8: STRIDED_SLICE
    10: FULLY_CONNECTED
"""
"""The newest version of each op that tflite-runtime 2.14.0 knows, as its wheel for x86-64 reports for a file
with each; a test measures it again."""


@dataclass(frozen=True)
class OldRuntimeResult:
    """A model file in both runtimes on the same photos.

    Attributes:
        version: Of the old runtime's package.
        agreement: Of their top-1.
        largest_step: The largest difference of one probability, in 1/256.
    """

    version: str
    agreement: Proportion
    largest_step: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"tflite-runtime {self.version} predicts the same product as LiteRT on {self.agreement}; "
            f"probabilities differ by {self.largest_step:.1f}/256 at most"
        )

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        return {"version": self.version, "agreement": self.agreement.as_json(), "largest_step": self.largest_step}


def newest_versions() -> dict[str, int]:
    """The newest version of each op that the old runtime knows, by TFLite's name of it."""
    versions: dict[str, int] = {}
    version = 0
    for word in _NEWEST.split():
        if word.endswith(":"):
            version = int(word[:-1])
        else:
            versions[word] = version
    return versions


def unknown_ops(tflite: bytes) -> list[str]:
    """Ops of a model file that the old runtime does not know: `FULLY_CONNECTED 12 (it knows 10)`, `GELU (not at all)`.

    Args:
        tflite: Content of the file.
    """
    known = newest_versions()
    found = []
    for code in schema.ModelT.InitFromPackedBuf(tflite).operatorCodes:
        name = op_name(code)
        if code.version > known.get(name, 0):
            has = f"it knows {known[name]}" if name in known else "not at all"
            found.append(f"{name} {code.version} ({has})")
    return sorted(found)


def check_known(tflite: bytes, precision: Precision) -> None:
    """Checks that the old runtime knows every op of a model file.

    Raises:
        QuantizationError: it does not.
    """
    if unknown := unknown_ops(tflite):
        raise QuantizationError(
            f"{OLD_RUNTIME} cannot run the {precision} model, because it does not know {', '.join(unknown)}: "
            "leave out --runtime-compat, or train with other --streams or another model.tail"
        )


def compared(
    tflite: bytes,
    photos_u8: NDArray[np.uint8],
    *,
    preprocessing: Preprocessing,
    python: Path,
    advance: Advance = lambda photos: None,
) -> OldRuntimeResult:
    """Compares the predictions of both runtimes on the same photos.

    Args:
        tflite: Content of the file.
        photos_u8: `(n, h, w, 3)` uint8 RGB, n ≥ 1.
        preprocessing: The model's.
        python: The Python of an environment with the old runtime.
        advance: Called with 1 after each photo of the old runtime.

    Raises:
        DeviceError: there is no old runtime, or it cannot run the file.
    """
    new = Interpreter(model_content=tflite).get_signature_runner()
    images = as_input(photos_u8, new.get_input_details()["image"]["dtype"], preprocessing)
    with TemporaryDirectory(prefix="edgebcnn-old-runtime-") as folder:
        place = Path(folder)
        (place / "model.tflite").write_bytes(tflite)
        np.save(place / "images.npy", images)
        (version,) = _run(python, place, advance)
        old_outputs = np.load(place / "outputs.npy")
    new_outputs = np.concatenate([new(image=image[np.newaxis])["probabilities"] for image in images])
    old_top1, new_top1 = (outputs.argmax(axis=1) for outputs in (old_outputs, new_outputs))
    steps = np.abs(old_outputs.astype(np.float64) - new_outputs.astype(np.float64)).max()
    scale = 256 if new_outputs.dtype == np.float32 else 1
    return OldRuntimeResult(version, agreement(old_top1, new_top1), float(scale * steps))


def _run(python: Path, place: Path, advance: Advance) -> list[str]:
    """Runs the reader; returns the lines it prints besides its progress."""
    command: Sequence[str | Path] = (python, _READER, place)
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                printed = list(_lines(process, advance))
            except BaseException:  # a progress callback may interrupt the work
                process.kill()
                raise
            complaint = process.stderr.read() if process.stderr else ""
    except OSError as error:
        raise DeviceError(f"{python} cannot be run ({error.strerror}): make it with {INSTALL}") from error
    if process.returncode:
        *_, last = complaint.strip().splitlines() or ["it prints no reason"]
        raise DeviceError(f"{python} cannot run the model in {OLD_RUNTIME} ({last}): make it with {INSTALL}")
    return printed


def _lines(process: subprocess.Popen[str], advance: Advance) -> Iterator[str]:
    for line in process.stdout or ():
        if line.strip() == ".":
            advance(1)
        else:
            yield json.loads(line)
