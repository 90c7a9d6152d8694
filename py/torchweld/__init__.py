"""Torchweld compiles TorchScript modules: the parts it can run better than LibTorch become engines, the rest stays.

compiled = torchweld.compile(module, inputs=[torchweld.Input((1, 3, 224, 224))])
compiled(x)
torch.jit.save(compiled, "compiled.ts")       # torch.jit.load reads it wherever torchweld is imported
"""

import atexit
from pkgutil import extend_path

# In a build tree the compiled part lies in another folder of the same name.
__path__ = extend_path(__path__, __name__)

from . import _startup

_startup.check_torch()

from . import _C
from ._C import Report, has_cuda
from ._compare import Comparison, compare
from ._compile import compile, dry_run, explain, load, warm_up
from ._inputs import Input

atexit.register(_C.stop_planning)

__version__ = "0.1.0"
__all__ = ["Comparison", "Input", "Report", "compare", "compile", "dry_run", "explain", "has_cuda", "load", "warm_up"]
