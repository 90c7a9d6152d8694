"""Damaged files, calls outside the range, and the wrong torch."""

import io
import struct
import warnings
import zipfile
from typing import Optional

import pytest
import torch
import torchweld
from torchweld import _startup

X = torch.ones(2, 4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    net = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2)).eval()
    compiled = torchweld.compile(torch.jit.script(net), [X])
    path = tmp_path_factory.mktemp("saved") / "net.ts"
    torch.jit.save(compiled, str(path))
    return path


def test_missing_file():
    with pytest.raises(FileNotFoundError, match="nowhere.ts does not exist; give the path of a file written by"):
        torchweld.load("nowhere.ts")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_file(saved, tmp_path, share):
    data = saved.read_bytes()
    path = tmp_path / "short.ts"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ValueError, match="it is truncated, altered, or no TorchScript file; save the module again"):
        torchweld.load(str(path))


def test_not_a_torchscript_file(tmp_path):
    path = tmp_path / "text.ts"
    path.write_text("hello")
    with pytest.raises(ValueError, match="it is truncated, altered, or no TorchScript file"):
        torchweld.load(str(path))


DAMAGED = "it is truncated, altered, or no TorchScript file; save the module again"


def test_altered_file_never_crashes_and_never_lies_silently(saved, tmp_path):
    """A flipped byte gives the one clear error, or (in padding and dates) the same results; never other ones."""
    data = saved.read_bytes()
    expected = torchweld.load(saved)(X)
    generator = torch.Generator().manual_seed(3)
    path = tmp_path / "altered.ts"
    errors = 0
    for place in torch.randint(0, len(data), (150,), generator=generator).tolist():
        changed = bytearray(data)
        changed[place] ^= 0x5A
        path.write_bytes(changed)
        try:
            module = torchweld.load(path)
        except ValueError as error:
            errors += 1
            assert DAMAGED in str(error)
        else:
            assert torch.equal(module(X), expected), place
    assert errors > 50


def test_altered_content_with_right_checksums_never_crashes(saved, tmp_path):
    """Whoever writes the checksums anew gets an error or TorchScript that runs, never a crash or a strange error."""
    with zipfile.ZipFile(saved) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    generator = torch.Generator().manual_seed(5)
    target = next(name for name in members if name.endswith("/data.pkl"))
    path = tmp_path / "altered.ts"
    errors = 0
    for place in torch.randint(0, len(members[target]), (60,), generator=generator).tolist():
        changed = bytearray(members[target])
        changed[place] ^= 0xA5
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, content in members.items():
                archive.writestr(name, bytes(changed) if name == target else content)
        try:
            torchweld.load(path)(X)
        except (ValueError, RuntimeError) as error:
            errors += 1
            assert str(error)
    assert errors > 10


def with_engine_state(saved, path, version, change=lambda text: text):
    """Copies a file whose one engine has another format version and text."""
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("/data.pkl"):
                # The engine's state is a tuple that begins with the format version and a text: BININT1 2, BINUNICODE.
                start = content.index(b"K\x02X") + 3
                end = start + 4 + int.from_bytes(content[start : start + 4], "little")
                text = change(content[start + 4 : end])
                length = len(text).to_bytes(4, "little")
                content = content[: start - 3] + b"K" + bytes([version]) + b"X" + length + text + content[end:]
            new.writestr(name, content)


def test_newer_format_is_no_damage(saved, tmp_path):
    """The message of an engine that this version cannot read asks for an update."""
    path = tmp_path / "newer.ts"
    with_engine_state(saved, path, version=99)
    with pytest.raises(ValueError, match="saved by a newer Torchweld .engine format 99"):
        torchweld.load(path)


@pytest.mark.parametrize("opening", [b"o[", b"("])
def test_endless_nesting_is_damage(saved, tmp_path, opening):
    def change(text):
        assert b"scalars=[" in text
        return text.replace(b"scalars=[", b"scalars=[" + opening * 1_000_000)

    path = tmp_path / "deep.ts"
    with_engine_state(saved, path, version=2, change=change)
    with pytest.raises(ValueError, match="the engine in this file is damaged .*nested too deeply"):
        torchweld.load(path)


def test_format_1_keeps_its_ranges(tmp_path):
    net, compiled = compiled_with("error")
    torch.jit.save(compiled, str(tmp_path / "new.ts"))

    def change(text):
        older = text.replace(b"is_known=true, ", b"").replace(b', kinds=""', b"")
        assert len(older) < len(text)
        return older

    with_engine_state(tmp_path / "new.ts", tmp_path / "old.ts", version=1, change=change)
    loaded = torchweld.load(tmp_path / "old.ts")
    assert torch.equal(loaded(X), net(X))
    with pytest.raises(RuntimeError, match=r"has shape \[9, 4\], outside the range \[1, 4\] to \[3, 4\]"):
        loaded(torch.randn(9, 4))


def test_file_objects_are_verified_too(saved):
    data = bytearray(saved.read_bytes())
    module = torchweld.load(io.BytesIO(data))
    assert torch.equal(module(X), torchweld.load(saved)(X))
    with zipfile.ZipFile(saved) as archive:
        member = max(archive.infolist(), key=lambda info: info.file_size)
    # Between members there are bytes that mean nothing.
    begin = member.header_offset + 30 + sum(struct.unpack_from("<HH", data, member.header_offset + 26))
    data[begin + member.file_size // 2] ^= 0x5A
    with pytest.raises(ValueError, match="the file cannot be read: it is truncated, altered"):
        torchweld.load(io.BytesIO(data))


def compiled_with(outside_range):
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2)).eval()
    spec = torchweld.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(3, 4))
    return net, torchweld.compile(torch.jit.script(net), [spec], outside_range=outside_range)


def test_outside_range_runs_in_torch_with_one_warning():
    net, compiled = compiled_with("torch")
    big = torch.randn(9, 4)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(3):
            torch.testing.assert_close(compiled(big), net(big))
    (warning,) = told
    text = str(warning.message)
    assert "has shape [9, 4], outside the range [1, 4] to [3, 4] that the module was compiled for; compile it" in text
    assert "It runs in LibTorch" in text


def test_outside_range_raises():
    _, compiled = compiled_with("error")
    compiled(torch.randn(3, 4))
    with pytest.raises((ValueError, RuntimeError)) as caught:
        compiled(torch.randn(9, 4))
    assert "outside" in str(caught.value) and "9" in str(caught.value)


def test_outside_range_of_tensors_that_may_be_missing():
    class Masked(torch.nn.Module):
        def forward(self, x, by: float, mask: Optional[torch.Tensor] = None):
            x = torch.sigmoid(x) * by
            return torch.relu(x if mask is None else x + mask) + 1.0

    net, x, mask = Masked().eval(), torch.randn(2, 3), torch.randn(2, 3)
    with_one = torchweld.compile(torch.jit.script(net), [torchweld.Input((2, 3)), 2.0, mask], outside_range="error")
    without = torchweld.compile(torch.jit.script(net), [torchweld.Input((2, 3)), 2.0], outside_range="error")
    for compiled in (with_one, without):
        for call in ((x, 2.0), (x, 3.0, mask)):
            assert torch.equal(compiled(*call), net(*call))
        with pytest.raises(RuntimeError, match=r"Input 0 of segment_0 has shape \[1, 3\], outside the range"):
            compiled(x[:1], 2.0, mask)
    with pytest.raises(RuntimeError, match=r"Input [12] of segment_0 has shape \[1, 3\], outside the range"):
        with_one(x, 2.0, mask[:1])
    assert torch.equal(without(x, 2.0, mask[:1]), net(x, 2.0, mask[:1])), "no size was given"


def test_sizes_that_follow_from_numbers_have_no_range():
    class Repeats(torch.nn.Module):
        def forward(self, x, times: int):
            y = torch.sort(torch.relu(x).repeat(times, 1), 0)[0]
            print("between two segments")
            return torch.sigmoid(y) * 2.0 + 1.0

    net, x = Repeats().eval(), torch.randn(2, 3)
    compiled = torchweld.compile(
        torch.jit.script(net), [x, 2], outside_range="error", min_block_size=1, torch_executed_ops=["aten::sort"]
    )
    assert len(torchweld.explain(compiled).engines) == 2
    for times in (2, 3, 3):
        torch.testing.assert_close(compiled(x, times), net(x, times))
    with pytest.raises(RuntimeError, match="Input 0 of segment_0 has shape .1, 3., outside the range"):
        compiled(x[:1], 2)


def test_sizes_between_those_of_the_ends():
    class Padded(torch.nn.Module):
        """Squares whose side is larger the further the input is from 4 rows."""

        def forward(self, x):
            side = abs(x.size(0) - 4) + 1
            y = torch.sort(torch.relu(x[:1, :1]).expand(side, side), 0)[0]
            return torch.sigmoid(y) * 2.0 + 1.0

    net = torch.jit.script(Padded().eval())
    rows = torchweld.Input(min_shape=(1, 4), opt_shape=(4, 4), max_shape=(6, 4))
    compiled = torchweld.compile(
        net, [rows], outside_range="error", min_block_size=1, torch_executed_ops=["aten::sort"]
    )
    for height in range(1, 7):
        x = torch.randn(height, 4)
        torch.testing.assert_close(compiled(x), net(x))
    with pytest.raises(RuntimeError, match="outside the range"):
        compiled(torch.randn(7, 4))


def test_outside_range_is_built():
    net, compiled = compiled_with("build")
    big = torch.randn(9, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(compiled(big), net(big))


@pytest.mark.parametrize("outside_range", ["torch", "error"])
def test_wrong_dtype_at_a_call(outside_range):
    """What eager refuses is refused, in words that name the dtype."""
    _, compiled = compiled_with(outside_range)
    with pytest.raises((ValueError, RuntimeError)) as caught:
        compiled(torch.ones(2, 4, dtype=torch.float64))
    assert any(word in str(caught.value) for word in ("double", "Double", "f64", "dtype"))


@pytest.mark.parametrize(
    "found, cuda, words",
    [
        ("2.12.1+cu130", "13.0", "was built for torch 2.11.0 and found torch 2.12.1+cu130: install torch==2.11.0"),
        ("2.11.0+cpu", None, "was built for a torch with CUDA and found torch 2.11.0+cpu, which has none"),
    ],
)
def test_wrong_torch(found, cuda, words):
    message = _startup.mismatch(found, cuda, "2.11.0", True)
    assert words in message and "\n" not in message


def test_right_torch():
    assert _startup.mismatch("2.11.1+cu130", "13.0", "2.11.0", True) is None
    assert _startup.mismatch("2.11.0+cpu", None, "2.11.0", False) is None
