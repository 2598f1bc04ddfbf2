# SPDX-License-Identifier: Apache-2.0
"""`normcpu embed`: models to C, compared with ONNX; what cannot be is named, and leaves nothing behind."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embed_build import CC, CORTEX_M4F, Library, build, sections
from onnx_cases import Case, X
from onnx_cases import build as model_of
from peers import peer

from normcpu.cli import main

pytestmark = pytest.mark.peers
onnx = peer("onnx")
peer("onnx_ir")
from normcpu.onnx import CannotEmbed, embed  # noqa: E402
from normcpu.onnx.run import evaluate  # noqa: E402

LENET = """
c = Conv<pads=[1,1,1,1]>(x, W[5,4,3,3], B[5])
r = Relu(c)
p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
f = Flatten(p)
g = Gemm<alpha=0.5, beta=2.0>(f, W1[45,8], B1[8])
r1 = Relu(g)
h = Gemm<transB=1>(r1, W2[3,8])
y = Softmax(h)
"""
# body, inputs, opset
MODELS: list[tuple[str, str, int]] = [
    (LENET, "float[N,4,6,6] x", 17),
    (LENET, "float[2,4,6,6] x", 12),
    ("c = Conv<auto_pad=\"SAME_UPPER\", strides=[2]>(x, W[6,4,4])\nl = LeakyRelu<alpha=0.2>(c)\n"
     "p = AveragePool<kernel_shape=[2]>(l)\ny = Conv<auto_pad=\"VALID\">(p, W1[2,6,3], B[2])", "float[1,4,11] x", 17),
    ("c = Conv<group=2, dilations=[2,1], pads=[2,0,1,1], auto_pad=\"NOTSET\">(x, W[6,2,3,2], B[6])\n"
     "b = BatchNormalization(c, G[6], B1[6], M[6], V[6])\nh = HardSwish(b)\np = GlobalAveragePool(h)\n"
     "y = Flatten(p)", X, 17),
    ("c = Conv<group=4, auto_pad=\"SAME_LOWER\", strides=[2,1]>(x, W[4,1,3,2], B[4])\nc6 = Clip(c, Z[], Six[])\n"
     "p = MaxPool<kernel_shape=[2,3], pads=[1,1,0,1], dilations=[1,2], strides=[1,2]>(c6)\n"
     "y = Clip(p, L[], P[])", X, 17),
    ("p = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(x)\n"
     "y = AveragePool<kernel_shape=[2,2], pads=[1,0,0,1], count_include_pad=1>(p)", X, 17),
    ("p = MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x)\ny = GlobalMaxPool(p)", X, 17),
    ("m = ReduceMean<axes=[2,3], keepdims=0>(x)\nt = MatMul(m, W[4,5])\na = Add(B[5], t)\ny = Sigmoid(a)", X, 17),
    ("d = Div(x, P[])\ns = Sub(d, M[4,1,1])\nc = Conv(s, W[3,4,1,1])\na = Add(c, B[3,1,1])\ny = Tanh(a)", X, 17),
    ("c = Conv(x, W[3,4,6,6], B[3])\ns = Squeeze(c)\nu = Unsqueeze<axes=[0]>(s)\ny = Identity(u)",
     "float[1,4,6,6] x", 11),
    ("c = Conv(x, W[5,4,6,6])\nt = Transpose<perm=[0,2,3,1]>(c)\ns = Softmax<axis=3>(t)\nd = Dropout(s)\n"
     "y = Relu(d)", "float[1,4,6,6] x", 17),
    ("c = Conv(x, W[5,4,6,6])\ny = Softmax<axis=1>(c)", X, 11),
    ("n = Shape(x)\nz = Constant<value_int=0>()\nb = Gather(n, z)\no = Constant<value_ints=[0]>()\n"
     "b1 = Unsqueeze(b, o)\nm = Constant<value_ints=[-1]>()\ns = Concat<axis=0>(b1, m)\nr = Reshape(x, s)\n"
     "g = Gemm(r, W[144,3], B[1,3])\nl = Mul(g, P[3])\ny = Relu(l)", X, 17),
    ("y = Gelu(x)", X, 20),
    ("y = Gelu<approximate=\"tanh\">(x)", X, 20),
]  # fmt: skip


def case(body: str, inputs: str = X, opset: int = 17, outputs: str = "float[] y") -> Any:
    return model_of(Case("", "", 0, 0, body, inputs, outputs, opset))


@pytest.mark.parametrize("stored", ["float32", "int8"])
def test_models(stored: str, tmp_path: Path) -> None:
    """float32: to the roundings of a few hundred products; int8: to a hundredth of the largest."""
    rng = np.random.default_rng(3)
    made, expected = [], []
    for i, (body, inputs, opset) in enumerate(MODELS):
        model = case(body, inputs, opset)
        shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
        x = rng.normal(size=shape).astype(np.float32)
        made.append(embed(model, name=f"net{i}", stored=stored, inputs=x[None]))
        expected.append((x, evaluate(model, {"x": x})[0]))
    library = Library(made, tmp_path, f"{CC} -O2")
    for each, (x, y), (body, *_) in zip(made, expected, MODELS, strict=True):
        got = library(each.name, x, None, y.shape)
        near = 2e-6 if stored == "float32" else 0.02
        np.testing.assert_allclose(got, y, near, near * abs(y).max(), err_msg=body)
        assert each.notes[-1].startswith("differs from the model")


REFUSED = [
    ("r = Relu(x)\ne = Elu(r)\ny, h, c = LSTM<hidden_size=2>(e, W[1,8,4], W1[1,8,2])", "Elu 'n1': there is no C for"),
    ("a = Relu(x)\nb = Sigmoid(a)\ny = Add(a, b)", "'a' is read by Sigmoid 'n1' and Add 'n2'"),
    ("y = Mul(x, x)", "Mul 'n0': it combines 'x' and 'x'"),
    ("c = Conv(x, W[5,4,3,3])\nn = Elu(c)\ny = Conv(x, W[5,4,3,3])", "'x' is read by Conv 'n0' and Conv 'n2'"),
    ("y = MatMul(W[4,4], x)", "MatMul 'n0': it reads 'x' as its parameter"),
    ("y = Add(x, W[4,6,6])", "Add 'n0': its factors vary along axes [1, 2, 3], not along one"),
    ("y = MatMul(x, W[2,4,6,3])", "MatMul 'n0': its weight has 4 axes"),
    ("y = Transpose<perm=[0,2,3,1]>(x)", "Transpose 'n0': it moves elements: perm [0, 2, 3, 1] of (2, 4, 6, 6)"),
    ("y = MaxPool<kernel_shape=[4,4], strides=[4,4], ceil_mode=1>(x)", "MaxPool 'n0': ceil_mode makes windows"),
    ("y, i = MaxPool<kernel_shape=[2,2]>(x)\nz = Cast<to=1>(i)", "MaxPool 'n0': its second output is used"),
    ("y = Conv<pads=[3,3,3,3]>(x, W[5,4,3,3])", "Conv 'n0': padding must leave some of x in each window"),
    ("y = Conv(x, W[5,4,7,7])", "Conv 'n0': kernel must fit into x"),
    ("y = Conv(x, Nan[5,4,1,1])", "Conv 'n0': weight must be finite, got nan"),
    ("y = Softmax<axis=1>(x)", "Softmax 'n0': it is along axis 1, not the last of (2, 4, 6, 6)"),
    ("y, m, v = BatchNormalization<training_mode=1>(x, G[4], B[4], M[4], V[4])", "BatchNormalization 'n0': it uses"),
    ("y = ReduceMean<axes=[1]>(x)", "ReduceMean 'n0': it is not the mean of all spatial axes"),
    ("f = Flatten(x)\ny = Gemm<transA=1>(f, W[2,3])", "Gemm 'n1': its input is transposed"),
    ("f = Flatten(x)\ny = Gemm(f, W[144,3], B[2,3])", "Gemm 'n1': its bias differs between rows: (2, 3)"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_the_first_operation_that_cannot_be_is_named(body: str, message: str) -> None:
    outputs = "float[] y, float[] z" if "z =" in body else "float[] y"
    model = case(body, outputs=outputs.split(",")[0])
    if "z =" in body:
        model.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, None))
        message = "the model must have one output, got 'y', 'z'"
    for tensor in model.graph.initializer:
        if tensor.name == "Nan":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full((5, 4, 1, 1), np.nan, np.float32), "Nan"))
    with pytest.raises(CannotEmbed) as problem:
        embed(model)
    assert message in str(problem.value)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("float[N,4,H,6] x", "input 'x' must have known sizes, got 'H' on axis 2"),
        ("float[N,0,6,6] x", "input 'x' must have sizes of at least 1, got 0 on axis 1"),
        ("float x", "input 'x' must have a known shape"),
        ("float16[1,4,6,6] x", "input 'x' must be float32, got float16"),
        ("float[1,4,6,6] x, float[1] other", "the model must have one input, got 'x', 'other'"),
    ],
)
def test_inputs_that_are_not_static(inputs: str, message: str) -> None:
    with pytest.raises(CannotEmbed) as problem:
        embed(case("y = Relu(x)", inputs))
    assert message in str(problem.value)


def test_hostile_names_reach_neither_code_nor_paths(tmp_path: Path) -> None:
    evil = '*/ #include "/etc/passwd" \n system("touch hacked"); /* ../../x é'
    model = case(LENET, "float[N,4,6,6] x")
    names = {name: f"{evil}{name}" for node in model.graph.node for name in (*node.input, *node.output) if name}
    for node in model.graph.node:
        node.name = evil + node.name
        for values in (node.input, node.output):
            values[:] = [names[name] for name in values]
    for named in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        named.name = names[named.name]
    model.graph.ClearField("value_info")
    model.graph.name = model.doc_string = evil
    target = tmp_path / "made"
    made = embed(model)
    made.write(target)
    assert made.name.isidentifier()
    assert made.name.isascii()
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == sorted(made.files)
    text = "".join(made.files.values())
    assert text.isascii()
    assert "hacked" not in text.replace(made.name, "").replace(made.name.upper(), "")
    assert "passwd" not in text.replace(made.name, "").replace(made.name.upper(), "")
    plain = embed(case(LENET, "float[N,4,6,6] x"), name=made.name)
    assert plain.files == made.files  # the same but for names, which are nowhere


def test_lenet_takes_6_kb_besides_its_parameters(tmp_path: Path) -> None:
    """Its code on a Cortex-M4F, and no constants but folded weights and biases."""
    from normcpu.onnx import fold

    folded, _ = fold(Path(__file__).parents[1] / "examples/embed_lenet/lenet.onnx", verify=False)
    parameters = sum(value.const_value.size for value in folded.graph.initializers.values())
    made = embed(folded, name="lenet")
    assert made.flash == 4 * parameters == 4 * 21386
    assert made.ram == 4 * 6 * 8 * 8  # the first convolution's y
    made.write(tmp_path)
    build(CORTEX_M4F, "-c lenet.c", tmp_path)
    sizes = sections(tmp_path / "lenet.o", "arm-none-eabi-size")
    assert sum(n for name, n in sizes.items() if name.startswith((".text", ".rodata"))) <= made.flash + 6000


# ---- The command -----------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    onnx.save(case(LENET, "float[N,4,6,6] x"), tmp_path / "le-net.onnx")
    return tmp_path / "le-net.onnx"


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_command(saved: Path, tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(3, 1, 4, 6, 6)))
    target = tmp_path / "made"
    assert (
        main(["embed", str(saved), "-o", str(target), "--weights", weights, "--inputs", str(tmp_path / "x.npz")]) == 0
    )
    assert sorted(p.name for p in target.iterdir()) == ["le_net.c", "le_net.h", "le_net_test.c"]
    said = capsys.readouterr().out
    assert "bytes and the code, RAM: 720" in said
    assert ("differs from the model, with weights in int8, by at most" in said) == (weights == "int8")
    build(f"{CC} -O1", "le_net.c le_net_test.c -o run -lm", target)
    assert subprocess.run([target / "run"]).returncode == 0
    assert main(["embed", str(saved), "-o", str(target), "--name", "while", "--samples", "2", "-q"]) == 0
    assert target.joinpath("net_while_test.c").exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("body", "arguments", "status", "message"),
    [
        ("y = Elu(x)", [], 3, "cannot be made to C: Elu 'n0': there is no C for this operation"),
        (None, [], 3, "no such file"),
        ("y = Relu(x)", ["--inputs", "bad.npz"], 2, "inputs must have shape (k, 2, 4, 6, 6), got (3, 3)"),
        ("y = Relu(x)", ["--inputs", "none.npz"], 3, "not a readable .npz file"),
    ],
)
def test_command_writes_nothing_that_it_cannot_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    body: str | None, arguments: list[str], status: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    np.savez("bad.npz", x=np.ones((3, 3)))
    if body is not None:
        onnx.save(case(body), "model.onnx")
    assert main(["embed", "model.onnx", "-o", "made", *arguments]) == status
    assert message in capsys.readouterr().err
    assert not Path("made").exists()


def test_command_and_folders_that_cannot_be_written(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.joinpath("file").write_text("")
    tmp_path.joinpath("half", "le_net_test.c").mkdir(parents=True)  # in the place of a file
    for folder in ("file", "file/below", "not/there", "half"):
        assert main(["embed", str(saved), "-o", str(tmp_path / folder)]) == 3
        assert "cannot be written" in capsys.readouterr().err
    assert [p.name for p in tmp_path.joinpath("half").iterdir()] == ["le_net_test.c"]


def test_a_result_that_is_not_the_model_s_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    from normcpu.onnx import sequence

    monkeypatch.setitem(sequence.READERS, "Relu", lambda to, node: to.activate("tanh"))
    with pytest.raises(CannotEmbed, match="the result would differ from the model's own by"):
        embed(case("y = Relu(x)"))
    with pytest.raises(ValueError, match="stored must be 'float32' or 'int8', got 'int4'"):
        embed(case("y = Relu(x)"), stored="int4")


def test_damaged_models_end_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Senseless fields and bytes that are no message: never another kind of exception."""
    import fuzz_onnx

    from normcpu.onnx import ModelError

    monkeypatch.setattr(fuzz_onnx, "CASES", [Case("", "", 0, 0, *of[:2], "float[] y", of[2]) for of in MODELS])
    made, sentences = 0, []
    for seed in range(150):
        path = tmp_path / "damaged.onnx"
        path.write_bytes(fuzz_onnx.damaged(seed))
        try:
            embed(path, verify=False)
            made += 1
        except (CannotEmbed, ModelError) as sentence:
            sentences.append(str(sentence))
    assert made > 5  # some damage is none
    assert not any("\n" in sentence for sentence in sentences)
