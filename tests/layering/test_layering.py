"""The folders depend on each other in one direction only; read from the #include lines."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# core <- kernels <- conversion <- partitioning <- runtime <- py, and core <- lowering <- partitioning.
ALLOWED = {
    "core": {"core"},
    "lowering": {"core", "lowering"},
    "kernels": {"core", "kernels"},
    "conversion": {"core", "kernels", "conversion"},
    "partitioning": {"core", "lowering", "kernels", "conversion", "partitioning"},
    "runtime": {"core", "lowering", "kernels", "conversion", "partitioning", "runtime"},
    "py": {"core", "lowering", "kernels", "conversion", "partitioning", "runtime", "py"},
}
# These headers take ten seconds each to compile.
JIT_ALLOWED = re.compile(
    r"^(lowering|partitioning|runtime|py)/|^conversion/(convert|import|source_line|structure)[^/]*$"
)
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.MULTILINE)


def files():
    return sorted(
        path.relative_to(ROOT).as_posix()
        for folder in ALLOWED
        for ending in ("cpp", "h")
        for path in (ROOT / folder).rglob(f"*.{ending}")
    )


def includes(path):
    return INCLUDE.findall((ROOT / path).read_text())


@pytest.mark.parametrize("path", files())
def test_depends_only_downwards(path):
    folder = path.split("/")[0]
    ours = {header for header in includes(path) if header.split("/")[0] in ALLOWED and (ROOT / header).exists()}
    wrong = sorted(header for header in ours if header.split("/")[0] not in ALLOWED[folder])
    assert not wrong, f"{path} may include only {sorted(ALLOWED[folder])}"


@pytest.mark.parametrize("path", files())
def test_heavy_headers_only_where_allowed(path):
    wrong = [h for h in includes(path) if h in ("torch/torch.h", "torch/extension.h", "ATen/ATen.h")]
    if not JIT_ALLOWED.match(path):
        wrong += [h for h in includes(path) if h.startswith("torch/csrc/jit/") or h == "torch/script.h"]
    assert not wrong, f"{path} includes {wrong}, which cost seconds in every file"


def test_device_code_includes_only_itself():
    """NVRTC finds no header but ours."""
    folder = ROOT / "kernels/cuda/device"
    names = {path.name for path in folder.glob("*")}
    for path in folder.glob("*.cuh"):
        assert set(INCLUDE.findall(path.read_text())) <= names, path.name
