"""Makes sure that the torch found is the one that Torchweld was built for, before any of its libraries are loaded."""

import sys


def mismatch(found_version, found_cuda, built_version, built_cuda):
    """One sentence when a torch (version, CUDA version or None) is not the one built for; else nothing."""
    found = found_version.split("+")[0].split(".")[:2]
    if found != built_version.split(".")[:2]:
        return (
            f"this torchweld was built for torch {built_version} and found torch {found_version}: install "
            f"torch=={built_version}, or build torchweld again with this torch (pip install --no-build-isolation .)"
        )
    if built_cuda and not found_cuda:
        return (
            f"this torchweld was built for a torch with CUDA and found torch {found_version}, which has none: install "
            f"a torch with CUDA, or build torchweld again with this torch (pip install --no-build-isolation .)"
        )
    return None


def check_torch():
    """Raises ImportError, in one sentence, when torch or the compiled part is missing or they do not fit."""
    try:
        from . import _build_info as built
    except ImportError:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise ImportError(
            f"torchweld is not built for this Python ({version}): run ./run test in its source folder, "
            "or pip install it"
        ) from None
    try:
        import torch
    except ImportError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"torchweld needs torch {built.TORCH_VERSION} and found none: pip install torch=={built.TORCH_VERSION}"
        ) from None
    problem = mismatch(torch.__version__, torch.version.cuda, built.TORCH_VERSION, built.WITH_CUDA)
    if problem:
        raise ImportError(problem)
