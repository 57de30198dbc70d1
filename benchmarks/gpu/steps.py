"""What is measured on a GPU, in order of worth, and how long each step may take. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

TOTAL_S = 480.0


@dataclass(frozen=True)
class Step:
    """One step, in a process of its own.

    Attributes:
        name: in the results.
        function: MODULE:FUNCTION below `benchmarks.gpu`, called with a `Session`.
        limit_s: seconds after which it is stopped; what it had written by then stays.
        about: for people.
        interpreted: in a dry run its Triton kernels run in Triton's interpreter.
    """

    name: str
    function: str
    limit_s: float
    about: str
    interpreted: bool = False


STEPS = (
    Step("device", "kernels:describe", 30, "device, versions, copy bandwidth"),
    Step("table6", "kernels:table6", 70, "the paper's rows beside unfold, loop and bilinear", interpreted=True),
    Step("upsample", "jobs:upsample", 40, "jbu and resfu at three sizes"),
    Step("implicit", "jobs:implicit", 80, "implicit at 224 and 448, default and paper preset, by stage"),
    Step("precision", "jobs:precision", 50, "half types against float32, each method and a ViT"),
    Step("tests", "kernels:tests", 120, "kernel tests on the device, with large addresses", interpreted=True),
    Step("compiled", "kernels:compiled", 60, "the paper's rows beside torch.compile, TorchScript, FlexAttention"),
    Step("memory", "jobs:memory", 45, "1024x1024x384 within a budget, and a band that runs out of memory"),
    Step("upsamplers", "jobs:upsamplers", 40, "every feed-forward method up to 16 times"),
    Step("training", "jobs:training", 30, "training steps a second"),
    Step("profile", "kernels:profile", 25, "time and bandwidth of each kernel of the paper's rows", interpreted=True),
    Step("tuning", "kernels:tuning", 40, "other launch configurations than the chosen ones", interpreted=True),
)
