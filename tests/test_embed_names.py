# SPDX-License-Identifier: Apache-2.0
"""Names of users: identifiers and nothing else, whatever they are."""

from __future__ import annotations

import re
import string
from pathlib import Path

import numpy as np
import pytest
from embed_build import CC, build
from hypothesis import given
from hypothesis import strategies as st

import normcpu
from normcpu import embed
from normcpu.embed.names import LONGEST, Names

IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
HOSTILE = [
    "", " ", "_", "__x", "_Bool", "../x", "/etc/passwd", "..\\x", "a b", 'a"; system("rm -rf /"); "', "*/ evil(); /*",
    "//", "\n#include <evil.h>\n", "\r\n", "\\\n", "??/", "\0", "a\0b", "%s%n", "$(evil)", "`evil`", "{0}", "{name}",
    "naïve", "模型", "模型二", "\u202egnp.exe", "ﬁ", "А", "\ud800", "1", "1conv", "9" * 40, "x" * 10_000, "/" * 10_000,
    "while", "int", "class", "restrict", "main", "INFINITY", "NULL", "EOF", "errno", "I", "linux", "unix", "sqrtf",
    "expf", "memcpy", "strfoo", "int32_t", "size_t", "UINT8_MAX", "NORMCPU_SQRTF", "normcpu_expf", "con", "NUL", "aux",
    "com1", "defined", "__cplusplus", "nan", "y", "x", "i", "c", "residual", "float", "bn.1", "bn/1", "bn_1", "BN_1",
]  # fmt: skip
ANY = st.one_of(st.sampled_from(HOSTILE), st.text(), st.text(string.printable))


@given(ANY)
def test_an_identifier_is_one_and_stays_it(text: str) -> None:
    name = embed.identifier(text)
    assert IDENTIFIER.fullmatch(name)
    assert len(name) <= LONGEST
    assert embed.identifier(text) == name
    assert embed.identifier(name) == name


@given(st.lists(ANY, max_size=12))
def test_names_are_apart_and_the_same_again(texts: list[str]) -> None:
    first, second = Names(("_shape",)), Names(("_shape",))
    names = [first(text) for text in texts]
    assert names == [second(text) for text in texts]
    everything = [name.lower() + end for name in names for end in ("", "_shape")]
    assert len(set(everything)) == len(everything)
    assert all(IDENTIFIER.fullmatch(name) for name in names)


def test_long_names_that_end_differently_are_apart() -> None:
    one, other = embed.identifier("layer" * 2000 + "1"), embed.identifier("layer" * 2000 + "2")
    assert one != other
    assert one[:15] == other[:15] == "layerlayerlayer"


def test_what_has_a_meaning_is_not_given() -> None:
    for text in ("while", "main", "sqrtf", "memcpy", "strange", "uint8_t", "NULL", "con", "linux", "normcpu_expf"):
        assert embed.identifier(text) == f"net_{text}"[:LONGEST]
    for text in ("bn", "conv1", "LeNet", "x", "encoder"):
        assert embed.identifier(text) == text


def test_hostile_names_reach_no_code_comment_or_path(tmp_path: Path) -> None:
    """Everything compiles, beside headers that have many names; and no text is in a file as it was."""
    folder = tmp_path / "in"
    layer = normcpu.FrozenBatchNorm([1], [2], [3], [4])
    arrays = {f"{text}{k}": np.ones((1, 2)) for k, text in enumerate(HOSTILE)} | {text: [1.5] for text in HOSTILE}
    sources = []
    for text in HOSTILE:
        made = embed.function(layer, (1, 1, 2), name=text)
        header = embed.params({text: [1], "w": [[2.0]]}, "int8", name=f"{text}.p")
        assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*\.[ch]", name) for name in (*made.files, *header.files))
        for files in (made, header):
            assert all(path.parent == folder for path in files.write(folder))
        body = "#include <math.h>\n#include <limits.h>\n#include <errno.h>\n"
        body += f'#include "{made.name}.h"\n#include "{header.name}.h"\n#include "{made.name}.c"\n'
        sources.append(f"{made.name}_all.c")
        folder.joinpath(sources[-1]).write_text(body)
    everything = embed.params(arrays, "int8", name="all")
    everything.write(folder)
    folder.joinpath("arrays.c").write_text('#include "all.h"\n')
    build(f"{CC} -O0", f"-fsyntax-only {' '.join(sorted(set(sources)))} arrays.c", folder)
    raw = [text for text in HOSTILE if len(text) > 3 and re.search(r"\W", text)]
    for text in (path.read_text("ascii") for path in folder.iterdir()):
        assert set(text) <= set(string.printable) - set("\r\t\v\f")
        assert not [given for given in raw if given in text]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize("name", [3, b"bn", ["bn"]])
def test_a_name_is_text(name: object) -> None:
    with pytest.raises(TypeError, match=f"name must be a str, got {type(name).__name__}"):
        embed.function(normcpu.FrozenBatchNorm([1], [2], [3], [4]), (1, 1), name=name)  # type: ignore[arg-type]
