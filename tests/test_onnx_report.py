# SPDX-License-Identifier: Apache-2.0
"""The report as a page and as JSON: every operation, every name escaped, the ranges of weights, and in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as xml
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_cases import FOLDED, Case, build, weight
from peers import peer

from normcpu import cli

pytestmark = pytest.mark.peers
EPS = 1e-5
CONV_BODY = """c = Conv<pads=[1,1,1,1]>(x, W[16,4,3,3])
b = BatchNormalization(c, G[16], B[16], M[16], V[16])
r = Relu(b)
d = Conv(r, W2[7,16,1,1])
b2 = BatchNormalization(d, G2[7], B2[7], M2[7], V2[7])
q = Softmax(b2)
y = Mul(q, G4[6])"""
HOSTILE = """</td><script>alert(1)</script><img src=x onerror="alert(2)">'"&\u202e\x1b[31m"""


@pytest.fixture(autouse=True)
def tools() -> Any:
    for name in ("onnx", "tabulate", "jinja2"):
        peer(name)
    return peer("normcpu.onnx")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    import onnx

    onnx.save(build(Case("", "", 3, 1, CONV_BODY)), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def cells(text: str, table: str) -> list[list[str]]:
    """The body of a table, of a page that must be well-formed: as XML it is read without forgiveness."""
    body = xml.fromstring(text).find(f".//table[@id='{table}']/tbody")
    assert body is not None
    return [["".join(cell.itertext()) for cell in line] for line in body]


def test_the_page_holds_what_the_report_does(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, told = model.with_name("report.html"), model.with_name("report.json")
    for report in (page, told):
        assert cli.main(["fold", str(model), "--dry-run", "--report", str(report)]) == cli.DONE
    report, text = json.loads(told.read_text()), page.read_text(encoding="utf-8")
    operations = cells(text, "operations")
    assert [(c[0], c[1], c[2]) for c in operations] == [
        (r["outcome"], r["op_type"], r["node"]) for r in report["records"]
    ]
    assert len(operations) == report["before"] == 3
    assert operations[0][3:] == ["B1", "Conv n0 (B1)"]
    assert operations[-1][4] == report["records"][-1]["reason"]
    assert [c[0] for c in cells(text, "errors")] == ["y"]
    root = xml.fromstring(text)
    counts = [int(b.text or "") for b in root.findall(".//ul[@class='counts']/li/b")]
    assert counts == [report["before"], report["after"], 2, 1]
    assert len(root.findall(".//figure/svg")) == len(report["ranges"]) == 2
    assert not re.search(r"https?:|\bsrc=|\bhref=|@import|url\(", text)  # nothing is fetched


def test_names_are_escaped(tools: Any) -> None:
    proto = build(Case("", "", 3, 1, CONV_BODY))
    for node in proto.graph.node:
        node.name = f"{node.op_type}{HOSTILE}"
    proto.graph.initializer[0].name = proto.graph.node[0].input[1] = f"W{HOSTILE}"
    _, report = tools.fold(proto, verify=False, ranges=True)
    text = report.to_html(f"model{HOSTILE}")
    told = HOSTILE.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")
    assert [c[2] for c in cells(text, "operations")] == [f"{r.op_type}{told}" for r in report.records]
    root = xml.fromstring(text)
    assert len(root.findall(".//script")) == 1
    assert root.find(".//img") is None
    assert root.findtext(".//title") == f"Folding of model{told}"
    assert f"W{told}" in "".join(root.find(".//figcaption").itertext())  # type: ignore[union-attr]


@pytest.mark.parametrize("case", FOLDED[::7], ids=lambda c: c.name)
def test_every_case_has_a_page(case: Case, tools: Any) -> None:
    _, report = tools.fold(build(case), verify=False, ranges=True)
    assert len(cells(report.to_html(), "operations")) == len(report.records)
    json.loads(report.to_json())


def test_a_page_without_operations(tools: Any) -> None:
    _, report = tools.fold(build(Case("", "", 0, 0, "y = Relu(x)")))
    assert "There are none" in "".join(xml.fromstring(report.to_html()).itertext())


LAYERS = {  # {operation: what comes before the BatchNorm, channels, axes of W that are not theirs}
    "Conv": ("c = Conv<group=2>(x, W[6,2,1,1])", 6, (1, 2, 3)),
    "ConvTranspose": ("c = ConvTranspose<group=2>(x, W[4,3,1,1])", 6, None),
    "MatMul": ("m = MatMul(x, W[6,5])\nc = Transpose<perm=[0,3,1,2]>(m)", 5, (0,)),
    "MatMul, transposed": ("w = Transpose(W[5,6])\nm = MatMul(x, w)\nc = Transpose<perm=[0,3,1,2]>(m)", 5, (1,)),
    "Gemm": ("f = Flatten(x)\nc = Gemm<transB=1>(f, W[5,144])", 5, (1,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_ranges_are_of_output_channels(name: str, tools: Any) -> None:
    """By the definition: |gamma| / sqrt(variance + eps) times as wide, channel by channel."""
    body, channels, axes = LAYERS[name]
    body += f"\ny = BatchNormalization(c, G[{channels}], B[{channels}], M[{channels}], V[{channels}])"
    proto = build(Case("", "", 1, 0, body))
    _, report = tools.fold(proto, verify=False, ranges=True)
    shape = next(t.dims for t in proto.graph.initializer if t.name == "W")
    w = np.abs(weight("W", tuple(shape)))
    if axes is None:  # transposed in groups: (inputs, outputs of a group), the groups' inputs below one another
        before = np.concatenate([w[:2].max(axis=(0, 2, 3)), w[2:].max(axis=(0, 2, 3))])
    else:
        before = w.max(axis=axes)
    factor = np.abs(weight("G", (channels,))) / np.sqrt(weight("V", (channels,)) + EPS)
    (told,) = report.ranges
    assert told.op_type == name.partition(",")[0]
    assert told.weight.upper() == "W"
    np.testing.assert_allclose(told.before, before, rtol=1e-5)
    np.testing.assert_allclose(told.after, before * factor, rtol=1e-5)
    assert told.spread_after == pytest.approx(max(told.after) / np.median(told.after))


@pytest.mark.parametrize("scales", ["S[6]", "S[]"])
def test_ranges_of_int8_weights(scales: str, tools: Any) -> None:
    """Of the reals that they stand for: a fold multiplies the scales, one of which may become several."""
    axis = "<axis=0>" if scales == "S[6]" else ""
    body = f"""w = DequantizeLinear{axis}(Q[6,4,3,3], {scales})
      c = Conv(x, w)
      y = BatchNormalization(c, G[6], B[6], M[6], V[6])"""
    _, report = tools.fold(build(Case("", "", 1, 0, body)), verify=False, ranges=True)
    (told,) = report.ranges
    shape = (6,) if scales == "S[6]" else ()
    before = np.abs(weight("Q", (6, 4, 3, 3)).astype(float)).max(axis=(1, 2, 3)) * weight("S", shape)
    np.testing.assert_allclose(told.before, before, rtol=1e-5)
    factor = np.abs(weight("G", (6,))) / np.sqrt(weight("V", (6,)) + EPS)
    np.testing.assert_allclose(told.after, before * factor, rtol=1e-5)


def test_ranges_are_read_only_where_asked_for(tools: Any) -> None:
    _, report = tools.fold(build(Case("", "", 3, 1, CONV_BODY)), verify=False)
    assert report.folded
    assert not report.ranges


def test_keep_metadata(model: Path) -> None:
    """Weights and biases of the folded ones, to the last bit; none of what stays, none unless asked for."""
    import onnx

    out = model.with_name("out.onnx")
    assert cli.main(["fold", str(model), "-o", str(out), "-q"]) == cli.DONE
    assert not onnx.load(out).metadata_props
    assert cli.main(["fold", str(model), "-o", str(out), "-q", "--keep-metadata"]) == cli.DONE
    (held,) = onnx.load(out).metadata_props
    assert held.key == "normcpu.batch_norms"
    told = json.loads(held.value)
    assert [(t["node"], t["into"]) for t in told] == [("n1", ["n0"]), ("n4", ["n3"])]
    for t, names in zip(told, [("G", "B"), ("G2", "B2")], strict=True):
        for key, name in zip(("weight", "bias"), names, strict=True):
            expected = weight(name, (len(t[key]),))
            np.testing.assert_array_equal(np.array(t[key], np.float32), expected)
    again = model.with_name("again.onnx")
    assert cli.main(["fold", str(out), "-o", str(again), "-q", "--keep-metadata"]) == cli.DONE
    assert onnx.load(again).metadata_props[0].value == held.value


def test_latency(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peer("onnxruntime")
    out = model.with_name("out.onnx")
    for name in ("report.html", "report.json"):
        report = model.with_name(name)
        assert cli.main(["fold", str(model), "-o", str(out), "--bench", "--report", str(report)]) == cli.DONE
    assert "latency in ONNX Runtime" in capsys.readouterr().out
    told = json.loads(report.read_text())["latency"]
    assert [t["model"] for t in told] == [str(model), str(out)]
    assert all(0 < t["minimum"] <= t["median"] for t in told)
    lines = cells(model.with_name("report.html").read_text(encoding="utf-8"), "latency")
    assert [line[0] for line in lines] == [str(model), str(out)]
    assert all(0 < float(line[1]) <= float(line[2]) for line in lines)
    for option in ("--dry-run", "--in-place"):
        assert cli.main(["fold", str(model), "--bench", option]) == cli.USAGE
        assert "--bench runs both files" in capsys.readouterr().err


def test_what_cannot_be_timed_is_folded_all_the_same(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    peer("onnxruntime")
    import onnx

    proto = onnx.load(model)
    proto.opset_import.append(onnx.helper.make_opsetid("nobody.knows", 1))
    proto.graph.node.append(onnx.helper.make_node("Unknown", ["y"], ["z"], domain="nobody.knows"))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, None))
    onnx.save(proto, model)
    out, report = model.with_name("out.onnx"), model.with_name("report.html")
    assert cli.main(["fold", str(model), "-o", str(out), "--bench", "--report", str(report)]) == cli.DONE
    told = capsys.readouterr()
    assert f"not timed: {model}: " in told.err
    assert "not verified: the original cannot be run here" in told.out
    assert len(cells(report.read_text(encoding="utf-8"), "operations")) == 3
    assert out.exists()


@pytest.mark.parametrize(("error", "place"), [(0.0, "0.0%"), (1e-6, "33.3%"), (1.0, "100.0%"), (np.inf, "100.0%")])
def test_where_an_error_stands(error: float, place: str, tools: Any) -> None:
    from normcpu.onnx import page

    assert page.place(error) == place


def test_a_report_of_no_known_kind(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["fold", str(model), "--report", "report.txt"]) == cli.USAGE
    assert "--report must end in .html or .json, got 'report.txt'" in capsys.readouterr().err
    assert [p.name for p in model.parent.iterdir()] == ["model.onnx"]


DRIVER = """<script>
const told = [], nodes = () => [...body.rows].filter((r) => !r.hidden).map((r) => r.cells[2].textContent);
const counted = () => document.getElementById("shown").textContent;
try {
  told.push(nodes());
  words.value = "n0 b1"; words.dispatchEvent(new Event("input")); told.push(nodes(), counted());
  words.value = ""; words.dispatchEvent(new Event("input"));
  outcome.value = "kept"; outcome.dispatchEvent(new Event("change")); told.push(nodes(), counted());
  outcome.value = ""; outcome.dispatchEvent(new Event("change"));
  const button = document.querySelectorAll("#operations th button")[2];
  button.click(); told.push(nodes(), heads[2].getAttribute("aria-sort"));
  button.click(); told.push(nodes(), heads[2].getAttribute("aria-sort"));
  told.push(document.documentElement.scrollWidth > window.innerWidth);
} catch (error) { problems.push(String(error)); }
document.documentElement.dataset.told = JSON.stringify([told, problems]);
</script></body>"""
LISTENER = '<script>const problems = []; addEventListener("error", (e) => problems.push(e.message));</script></head>'


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_in_a_browser(width: int, model: Path, tools: Any) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("browser not installed: chromium")
    import onnx

    proto = onnx.load(model)
    for node, name in zip(proto.graph.node, ("n0", "n10", "r", "n3", "n9", "q", "n2"), strict=True):
        node.name = name
    _, report = tools.fold(proto, ranges=True)
    page = model.with_name("driven.html")
    text = report.to_html().replace("</head>", LISTENER).replace("</body>", DRIVER)
    page.write_text(text, encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={model.parent / 'profile'}",
    ]
    ran = subprocess.run(
        [browser, *options, f"--window-size={width},800", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r'data-told="([^"]*)"', ran.stdout)
    assert found, ran.stderr[-2000:]
    told, problems = json.loads(html.unescape(found[1]))
    assert problems == []
    assert told == [
        ["n10", "n9", "n2"], ["n10"], "1", ["n2"], "1",
        ["n2", "n9", "n10"], "ascending", ["n10", "n9", "n2"], "descending",
        False,
    ]  # fmt: skip
