# SPDX-License-Identifier: Apache-2.0
"""Generated files, and writing them: all or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Generated:
    """C that was made, as texts by file name, and what it needs.

    name        the function's identifier, or what the arrays' identifiers begin with
    files       {"name.h": text, ...}
    flash       bytes of constants; the code comes on top
    ram         bytes of the scratch buffer
    stack       bytes at most, on a 32-bit CPU
    notes       what the header says of errors
    """

    name: str
    files: Mapping[str, str] = field(repr=False)
    flash: int
    ram: int
    stack: int
    notes: tuple[str, ...]

    def write(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write the files into `folder`, which is made where its parent is there: all of them, or none.

        Returns their paths.  Errors: OSError where that cannot be; then what was there before is there again.
        """
        target = Path(folder)
        is_new = not target.is_dir()
        try:
            target.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{self.name}.", dir=target) as aside:
                for name, text in self.files.items():
                    Path(aside, name).write_text(text, encoding="ascii", newline="\n")
                _put(Path(aside), target, list(self.files))
        except OSError as error:
            if is_new:
                with suppress(OSError):
                    target.rmdir()
            raise type(error)(error.errno, f"{target} cannot be written: {error.strerror or error}") from error
        return [target / name for name in self.files]


def _put(aside: Path, target: Path, names: list[str]) -> None:
    """Files from aside to target; where one cannot be put, those before it go back to what they were."""
    done: list[str] = []
    try:
        for name in names:
            if (target / name).exists():
                shutil.copy2(target / name, aside / f"{name}.before")
            os.replace(aside / name, target / name)
            done.append(name)
    except BaseException:
        for name in done:
            if (aside / f"{name}.before").exists():
                os.replace(aside / f"{name}.before", target / name)
            else:
                (target / name).unlink()
        raise
