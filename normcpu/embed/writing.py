# SPDX-License-Identifier: Apache-2.0
"""Generated files, and writing them: all or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
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
        """Write all files into `folder`, which is made if its parent is there; their paths.

        Errors: OSError where the folder cannot be written; then no file of these has changed.
        """
        target = Path(folder)
        made: list[tuple[str, Path]] = []
        try:
            target.mkdir(exist_ok=True)
            for name, text in self.files.items():
                if target.joinpath(name).is_dir():
                    raise IsADirectoryError(None, f"{name} is a folder")
                descriptor, temporary = tempfile.mkstemp(prefix=f".{self.name}.", dir=target)
                made.append((temporary, target / name))
                with open(descriptor, "w", encoding="ascii", newline="\n") as file:
                    file.write(text)
                os.chmod(temporary, 0o644)
            for temporary, path in made:
                os.replace(temporary, path)
        except OSError as error:
            raise type(error)(error.errno, f"{target} cannot be written: {error.strerror or error}") from error
        finally:
            for temporary, _ in made:
                Path(temporary).unlink(missing_ok=True)
        return [path for _, path in made]
