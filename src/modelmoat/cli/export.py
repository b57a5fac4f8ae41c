"""``modelmoat export``: a victim and its defense as one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from modelmoat.export import Exported

HELP = """Write a victim with its defense as one ONNX file, for any runtime that serves ONNX.

Its answers are checked against the victim's own on test images before the file is there. Its metadata says what the
victim is: recipe, architecture, data, and the defense inside. With --int8, weights and
activations become bytes; victims of ptq, qat and divqat are int8 already. OpenVINO runs int8 files fastest:
modelmoat assess model.onnx,runtime=openvino.

Examples:

  modelmoat export victims/digits --out digits.onnx

  modelmoat export victims/digits --defense reverse_sigmoid:beta=0.6 --int8 --out digits-int8.onnx

  modelmoat export victims/digits-mad --out digits-mad.onnx
"""


def export(
    victim: Annotated[
        str, typer.Argument(help="A folder of train or protect, python:module:function, timm:NAME, or FILE.pt.")
    ],
    out: Annotated[Path, typer.Option(help="File to write, which ends in .onnx.")],
    int8: Annotated[bool, typer.Option("--int8", help="Int8 weights and activations.")] = False,
    defense: Annotated[
        str, typer.Option(help="Defense inside the file, after the one that the victim comes with.")
    ] = "none",
    data: Annotated[str | None, typer.Option(help="The victim's data; what it was trained on if left out.")] = None,
    data_seed: Annotated[int | None, typer.Option(help="Seed of the victim's splits; its own if left out.")] = None,
    calibration_images: Annotated[
        int, typer.Option(help="Training images that set the ranges of int8 activations.")
    ] = 1024,
    images: Annotated[int, typer.Option(help="Test images to check answers on, at most.")] = 2000,
    min_agreement: Annotated[
        float | None,
        typer.Option(help="Least share of test images with the victim's top-1; 1 in float32 and 0.99 in int8."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of every draw when the defense is fitted.")] = 0,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load pickled models, which can run any code.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print what came of it as JSON.")] = False,
) -> None:
    """Write a victim with its defense as one ONNX file."""
    from modelmoat.assessment import SubjectSpec
    from modelmoat.cli.options import by_option_names
    from modelmoat.cli.progress import bars
    from modelmoat.defenses import parse_defense
    from modelmoat.export import ExportSpec
    from modelmoat.export import export as run

    options = {
        "calibration_images": "--calibration-images",
        "images": "--images",
        "min_agreement": "--min-agreement",
    }
    with by_option_names(options):
        spec = ExportSpec(
            subject=SubjectSpec(victim=victim, data=data, data_seed=data_seed, allow_pickle=allow_pickle),
            defense=parse_defense(defense),
            int8=int8,
            calibration_images=calibration_images,
            images=images,
            min_agreement=min_agreement,
            seed=seed,
        )
    with bars() as shown:
        found = run(spec, out, tell=lambda stage, done, total: shown.show("export", done, total, stage))
    _print(found, victim, as_json=json_)


def _print(found: Exported, victim: str, *, as_json: bool) -> None:
    import json
    from dataclasses import asdict

    from modelmoat.models import arch_names

    if as_json:
        typer.echo(json.dumps({**asdict(found), "path": str(found.path)}))
        return
    numbers = "int8" if found.int8 else "float32"
    typer.echo(
        f"{found.path}: {victim} behind {found.defense}, {numbers}, {found.size / 1e3:,.0f} kB; on {found.images:,} test "
        f"images top-1 of the victim {found.agreement:.2%}, mean L1 {found.mean_l1:.4f}, accuracy {found.accuracy:.1%} "
        f"(victim {found.victim_accuracy:.1%})"
    )
    typer.echo("One call: " + ", ".join(f"{name} {value:.3g} ms" for name, value in found.latency_ms.items()))
    clone = "" if found.arch in arch_names() else " --clone-arch ARCH"
    typer.echo(f"Next: modelmoat assess {found.path} --pool REF{clone} --budget 100,1000 --out runs/exported")


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("export", help=HELP)(export)
