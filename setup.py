"""Builds the C++ part with CMake, against the torch of the Python that runs this."""

import importlib.metadata
import os
import pathlib
import subprocess
import sys

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent


def torch_version():
    try:
        return importlib.metadata.version("torch").split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        sys.exit("torchweld is built against an installed torch and found none: pip install torch==2.11.0")


class CMakeBuild(build_ext):
    def run(self):
        package = pathlib.Path(self.build_lib).resolve() / "torchweld"
        folder = pathlib.Path(self.build_temp).resolve() / "cmake"
        folder.mkdir(parents=True, exist_ok=True)
        configure = [
            "cmake",
            "-S",
            str(ROOT),
            "-B",
            str(folder),
            "-G",
            "Ninja",
            f"-DPython_EXECUTABLE={sys.executable}",
            "-DCMAKE_UNITY_BUILD=ON",
            "-DCMAKE_UNITY_BUILD_BATCH_SIZE=12",
            "-DTORCHWELD_TESTS=OFF",
            "-DTORCHWELD_EXAMPLES=OFF",
            "-DCMAKE_INSTALL_RPATH_USE_LINK_PATH=OFF",  # A package lies beside torch, wherever that is.
            f"-DCMAKE_INSTALL_PREFIX={package}",
        ]
        subprocess.check_call(configure + os.environ.get("CMAKE_ARGS", "").split())
        subprocess.check_call(["cmake", "--build", str(folder)])
        subprocess.check_call(["cmake", "--install", str(folder), "--strip"])
        subprocess.check_call(["cmake", "--install", str(folder), "--strip", "--component", "python"])

    def get_outputs(self):
        package = pathlib.Path(self.build_lib).resolve() / "torchweld"
        return [str(path) for path in package.rglob("*") if path.is_file() and path.suffix != ".py"]


minor = ".".join(torch_version().split(".")[:2])
setup(
    # Beside what ./run builds, not in the midst of it.
    options={"build": {"build_base": "build/pip"}},
    ext_modules=[Extension("torchweld._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    # The torch that is already there fits, so that pip never brings a second one.
    install_requires=[f"torch=={minor}.*"],
)
