"""From a model reference to something that answers."""

from __future__ import annotations

from pathlib import Path

from modelmoat.core.errors import ModelError, OptionError, UnknownReference, nearest
from modelmoat.models.artifact import CARD_FILE, WEIGHTS_FILE, ModelCard, load_artifact, load_card
from modelmoat.models.onnx_predictor import OnnxPredictor, read_runtime
from modelmoat.models.outputs import read_kind
from modelmoat.models.predictor import Predictor
from modelmoat.models.python_models import load_python, load_timm
from modelmoat.models.quantized import GRAPH_FILE
from modelmoat.models.request import Request, Shape, agreed_shape
from modelmoat.models.torch_files import load_exported, load_pickled
from modelmoat.models.torch_predictor import TorchPredictor

_POSSIBLE = (
    "an artifact folder, FILE.onnx, FILE.pt2 or FILE.pt (both need --allow-pickle), python:module:function, timm:NAME, "
    "or replay:FILE for a victim"
)
_PICKLES = {".pt", ".pth", ".pkl", ".bin"}
_OPTIONS = ("outputs", "input", "runtime")


def load_model(
    reference: str,
    *,
    allow_pickle: bool = False,
    device: str = "cpu",
    outputs: str | None = None,
    input_shape: Shape | None = None,
) -> Predictor:
    """Load whatever a model reference names.

    A reference is an artifact folder, ``FILE.onnx``, ``FILE.pt2``, a pickled module (``.pt``, ``.pth``, ``.pkl``,
    ``.bin``), ``python:module:function`` or ``timm:NAME``. Options follow after commas: ``outputs=probabilities``,
    ``input=3x32x32``, and ``runtime=openvino`` for what is in ONNX.

    Args:
        reference: what the user wrote.
        allow_pickle: open files that can run code (``.pt2`` and pickled modules).
        device: where the model runs; ONNX files always run on the CPU.
        outputs: ``logits`` or ``probabilities``; by default what the model says itself, else logits.
        input_shape: channels, height, width of the images that it will get, checked where the model knows its own.

    Raises:
        UnknownReference: the reference names nothing; with what is possible and the nearest match.
        OptionError: an unknown or impossible option.
        ModelError: the model cannot be loaded or does not take such images.
    """
    place, options = _split(reference)
    if not place:
        raise UnknownReference(f"model '{reference}': the reference is empty. Possible: {_POSSIBLE}")
    request = Request(
        reference=reference,
        device=device,
        outputs=read_kind(options.get("outputs", outputs)),
        input_shape=agreed_shape(reference, _read_shape(options.get("input")), input_shape),
        allow_pickle=allow_pickle,
        runtime=read_runtime(options.get("runtime")),
    )
    predictor = _load(place, request)
    if "runtime" in options and not isinstance(predictor, OnnxPredictor):
        raise OptionError(
            f"model '{reference}' is run by torch; fix: leave out runtime={request.runtime}, or give what is in ONNX, as "
            "'modelmoat export' writes it"
        )
    return predictor


def _load(place: str, request: Request) -> Predictor:
    reference = request.reference
    kind, _, rest = place.partition(":")
    if kind in ("http", "https"):
        raise ModelError(
            f"model '{reference}': models behind HTTP are not available in this version; fix: give {_POSSIBLE}"
        )
    if kind == "replay":
        raise ModelError(f"model '{reference}': recorded answers are a victim, not a model; fix: use load_predictor()")
    if kind == "python":
        return load_python(rest, request)
    if kind == "timm":
        return load_timm(rest, request)
    return _load_path(Path(place).expanduser(), request)


def _load_path(path: Path, request: Request) -> Predictor:
    if path.is_dir():
        return _load_directory(path, request)
    if not path.is_file():
        raise UnknownReference(f"no model '{path}'{_similar(path)} Possible: {_POSSIBLE}")
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return OnnxPredictor(path, request)
    if suffix == ".pt2":
        return load_exported(path, request)
    if suffix in _PICKLES:
        return load_pickled(path, request)
    if path.name in (CARD_FILE, WEIGHTS_FILE):
        raise UnknownReference(f"'{path}' is one file of an artifact; fix: give its folder, '{path.parent}'")
    raise UnknownReference(f"'{path}' is no model file by its ending '{path.suffix}'. Possible: {_POSSIBLE}")


def _load_directory(path: Path, request: Request) -> Predictor:
    if request.outputs == "probabilities":
        raise OptionError(
            f"model '{request.reference}': an artifact gives logits; fix: leave out outputs=probabilities"
        )
    card = load_card(path)
    if card.quantization:
        return _load_graph(path / GRAPH_FILE, card, card.quantization.graph_digest, request)
    network, card = load_artifact(path, request.device)
    return TorchPredictor(
        network,
        reference=request.reference,
        digest=card.weights_digest,
        arch=card.arch,
        recipe=card.recipe,
        num_classes=card.num_classes,
        input_shape=request.input_shape,
        class_names=card.class_names,
        outputs="logits",
        device=request.device,
    )


def _load_graph(path: Path, card: ModelCard, digest: str, request: Request) -> OnnxPredictor:
    """The graph of an int8 victim, which is known by its card."""
    predictor = OnnxPredictor(path, request)
    if predictor.file_digest != digest:
        raise ModelError(
            f"{path} has hash {predictor.file_digest}, but {CARD_FILE} says {digest}: it was cut short or changed; "
            "fix: copy the folder again or train the model again"
        )
    predictor.arch, predictor.recipe, predictor.class_names = card.arch, card.recipe, card.class_names
    predictor.artifact = path.parent
    return predictor


def _similar(path: Path) -> str:
    """The nearest name in the deepest folder of ``path`` that exists."""
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    beside = {other.name: other for other in missing.parent.iterdir()} if missing.parent.is_dir() else {}
    close = nearest(missing.name, beside)
    for name, other in beside.items():
        close = close.replace(f"'{name}'", f"'{other}'")
    return close or "."


def _split(reference: str) -> tuple[str, dict[str, str]]:
    """Place and options of ``PLACE,key=value,key=value``; raises `OptionError` for an unknown option."""
    place, *parts = reference.strip().split(",")
    options: dict[str, str] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            raise OptionError(f"model '{reference}': '{part}' is not key=value; options are {', '.join(_OPTIONS)}")
        if key.strip() not in _OPTIONS:
            raise OptionError(
                f"model '{reference}': no option '{key}'{nearest(key, _OPTIONS) or '.'} Options: {', '.join(_OPTIONS)}"
            )
        options[key.strip()] = value.strip()
    return place.strip(), options


def _read_shape(text: str | None) -> Shape | None:
    if text is None:
        return None
    sizes = text.lower().split("x")
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        raise OptionError(f"input={text}: expected channels x height x width, such as input=3x32x32")
    channels, height, width = map(int, sizes)
    return channels, height, width
