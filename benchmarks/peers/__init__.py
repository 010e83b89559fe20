"""The peers: what each can do, as data, and its adapter, loaded on demand.

A new peer is one line in `PEERS` and one small module with a class ``Adapter`` (see `base`).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from benchmarks import workloads
from benchmarks.peers.base import Adapter
from benchmarks.workloads import TRAINING, Cell

EVERYTHING = ("latency", "predict", *TRAINING, "overhead")
EMBEDDING = ("bound-latency", "bound", "online", "jacobian")
ACTIVATIONS = ("relu", *workloads.ACTIVATIONS)
LAYERS = ("dropout", "layer_norm")


@dataclass(frozen=True)
class Peer:
    """A library to compare with.

    Parameters
    ----------
    name : str
        On the command line and in results.
    title : str
        In tables and plots.
    module : str
        The adapter's module in this package.
    packages : tuple of str
        What has to be importable.
    distributions : tuple of str
        Whose versions are recorded, and whose installed size is measured.
    tasks : tuple of str
    activations : tuple of str
    layers : tuple of str
        What it has beside dense layers.
    inputs : tuple of str
        "dense", "sparse" or both.
    one_row : bool
        Whether it takes one row at a time only.
    one_thread : bool
        Whether it cannot use more than one thread.
    dtypes : tuple of str
    softmax : bool
        Whether its predictions can end with a softmax; otherwise both sides have linear outputs.
    quick : bool
        Whether it takes part in the short run unasked.
    """

    name: str
    title: str
    module: str
    packages: tuple[str, ...]
    distributions: tuple[str, ...]
    tasks: tuple[str, ...] = EVERYTHING
    activations: tuple[str, ...] = ACTIVATIONS
    layers: tuple[str, ...] = LAYERS
    inputs: tuple[str, ...] = ("dense",)
    one_row: bool = False
    one_thread: bool = False
    dtypes: tuple[str, ...] = ("float32", "float64")
    softmax: bool = True
    quick: bool = True

    def missing(self) -> str | None:
        """Say why it cannot be measured here, or return None."""
        absent = [package for package in self.packages if find_spec(package) is None]
        return f"{', '.join(absent)} not installed" if absent else None

    def supports(self, cell: Cell) -> bool:
        """Whether it can do the work of a cell."""
        return (
            cell.needs <= {*self.tasks, *self.activations, *self.layers, *self.inputs}
            and cell.dtype in self.dtypes
            and not (self.one_row and cell.batch > 1)
            and not (self.one_thread and cell.threads != "1")
        )

    def adapter(self, n_threads: int) -> Adapter:
        """Import the library and return what talks to it."""
        module = import_module(f"benchmarks.peers.{self.module}")
        adapter: Adapter = module.Adapter(n_threads)
        return adapter


FASTBP = Peer(
    "fastbp",
    "fastbp",
    "ours",
    ("fastbp",),
    ("fastbp",),
    tasks=(*EVERYTHING, *EMBEDDING, "online-adam"),
    inputs=("dense", "sparse"),
)

PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "numpy",
            "NumPy by hand",
            "numpy_by_hand",
            ("numpy",),
            ("numpy",),
            tasks=(*EVERYTHING, *EMBEDDING),
        ),
        Peer(
            "scikit-learn",
            "scikit-learn",
            "scikit_learn",
            ("sklearn",),
            ("scikit-learn",),
            tasks=("latency", "predict", "sgd", "adam", "momentum", "online", "digits"),
            activations=("relu", "tanh", "sigmoid"),
            layers=(),
            inputs=("dense", "sparse"),
        ),
        Peer(
            "jax",
            "JAX jit",
            "jax_jit",
            ("jax",),
            ("jax", "jaxlib"),
            tasks=(*EVERYTHING, *EMBEDDING),
        ),
        Peer(
            "jax-scan",
            "JAX scan",
            "jax_scan",
            ("jax",),
            ("jax", "jaxlib"),
            tasks=(*TRAINING, "overhead"),
        ),
        Peer(
            "onnxruntime",
            "ONNX Runtime",
            "onnx_runtime",
            ("onnx", "onnxruntime"),
            ("onnxruntime",),
            tasks=("latency", "predict", "bound-latency", "bound"),
            layers=(),
        ),
        Peer(
            "mlpfile",
            "mlpfile",
            "mlp_file",
            ("mlpfile",),
            ("mlpfile",),
            tasks=("latency", "predict", "sgd", *EMBEDDING, "online-adam"),
            activations=("relu",),
            layers=(),
            one_row=True,
            one_thread=True,
            dtypes=("float32",),
            softmax=False,
        ),
        Peer(
            "torch",
            "PyTorch eager",
            "torch_eager",
            ("torch",),
            ("torch",),
            tasks=(*EVERYTHING, *EMBEDDING),
        ),
        Peer(
            "torch-compile",
            "torch.compile",
            "torch_compiled",
            ("torch",),
            ("torch",),
            quick=False,
        ),
        *(
            Peer(
                name,
                title,
                module,
                packages,
                packages,
                tasks=("predict", "sgd"),
                activations=("relu",),
                layers=(),
                inputs=("sparse",),
            )
            for name, title, module, packages in (
                ("scipy", "SciPy by hand", "scipy_by_hand", ("scipy",)),
                ("torch-csr", "PyTorch CSR", "torch_csr", ("torch",)),
                ("torch-bag", "PyTorch EmbeddingBag", "torch_bag", ("torch",)),
            )
        ),
    )
}
