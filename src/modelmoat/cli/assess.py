"""``modelmoat assess``: how stealable is a model, and what do defenses change."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from modelmoat.assessment import AssessmentSpec
    from modelmoat.cli.progress import Bars
    from modelmoat.core.records import Record

EXIT_VERDICT = 3
_OPTION_OF = {
    "epochs": "--clone-epochs",
    "min_steps": "--clone-min-steps",
    "lr": "--clone-lr",
    "batch_size": "--batch-size",
    "price_per_1000": "--price",
    "target_fidelity": "--target",
    "robust_images": "--robust-images",
    "accounts": "--accounts",
    "benign_share": "--benign-share",
}
LIMITED = ("fidelity", "served_fidelity", "clone_accuracy", "relative_accuracy")

HELP = """Attack a victim and report what was stolen.

Every defense, attack, budget and seed gives one record. Stop it at any time and run the same command again: it goes on,
and no query is paid twice.

Examples:

  modelmoat assess victims/digits --pool photo-patches,grey,size=8 --budget 100,1000 --out runs/digits

  modelmoat assess victims/digits --pool photo-patches,grey,size=8 --budget 100,1000 --seed 0,1,2
      --defense none --defense rounding:decimals=1 --attack knockoff --attack knockoff:targets=label --out runs/compare

  modelmoat assess model.onnx --data folder:my/images,size=32 --pool cifar10 --clone-arch resnet8
      --budget 5000 --fail-above fidelity=0.8 --out runs/gate
"""


def assess(
    victim: Annotated[
        str,
        typer.Argument(help="A trained folder, FILE.onnx, FILE.pt2, python:module:function, timm:NAME or replay:FILE."),
    ],
    pool: Annotated[str, typer.Option(help="Images the attacker may send, such as photo-patches,grey,size=8.")],
    budget: Annotated[str, typer.Option(help="Queries allowed; a list such as 100,1000 gives a curve.")],
    out: Annotated[Path, typer.Option(help="Folder for records and report.")],
    data: Annotated[
        str | None, typer.Option(help="The victim's data with its test images; what it was trained on if left out.")
    ] = None,
    data_seed: Annotated[
        int | None,
        typer.Option(help="Seed of the victim's splits; its own if left out, 0 for models trained elsewhere."),
    ] = None,
    attack: Annotated[
        list[str] | None, typer.Option(help="Attack; repeat for several; knockoff if there is no suite either.")
    ] = None,
    defense: Annotated[
        list[str] | None,
        typer.Option(
            help="Defense; repeat for several; none if left out. A protected victim is attacked as it is, too."
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(help="Attack with a fixed set of attackers: quick, standard or full; beside those of --attack."),
    ] = None,
    bracket: Annotated[
        bool,
        typer.Option(
            help="Also attack the undefended model and the one that serves labels alone: ceiling and floor of what a "
            "defense can gain."
        ),
    ] = True,
    accounts: Annotated[int, typer.Option(help="Accounts from which each attacker asks, in turns.")] = 1,
    benign_share: Annotated[
        float, typer.Option(help="Share of all traffic that is benign users', from the victim's validation images.")
    ] = 0.0,
    seed: Annotated[str, typer.Option(help="Seeds of the attacker; several give intervals.")] = "0",
    output: Annotated[
        str,
        typer.Option(
            help="What an answer holds: probabilities, topK such as top3, label, or probabilities+explanation."
        ),
    ] = "probabilities",
    clone_arch: Annotated[str | None, typer.Option(help="Architecture of clones; the victim's if left out.")] = None,
    clone_init: Annotated[
        str | None,
        typer.Option(
            help="Weights that clones start from: a trained folder, FILE.safetensors, or timm:NAME; random if left out."
        ),
    ] = None,
    clone_epochs: Annotated[int, typer.Option(help="Passes over the answered inputs.")] = 30,
    clone_min_steps: Annotated[int, typer.Option(help="Fewest optimizer steps of a clone, for small budgets.")] = 600,
    clone_lr: Annotated[float, typer.Option(help="Highest learning rate of clones.")] = 0.05,
    batch_size: Annotated[int, typer.Option(help="Images per step of clones.")] = 128,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    price: Annotated[float, typer.Option(help="Price of 1,000 queries, for the report.")] = 1.0,
    target: Annotated[float, typer.Option(help="Fidelity that a defense should hold clones under.")] = 0.7,
    fail_above: Annotated[
        str | None,
        typer.Option(
            help="Exit with 3 when a metric's mean over seeds is above, such as fidelity=0.8. Judges defended victims, "
            "or the undefended one where no defense is given."
        ),
    ] = None,
    robust: Annotated[
        str | None,
        typer.Option(
            help="Also measure the adversarial robustness of victim and clones, by fgsm, pgd or apgd, such as "
            "pgd:epsilon=8/255,norm=linf,steps=20; not measured if left out."
        ),
    ] = None,
    robust_images: Annotated[int, typer.Option(help="Most test images attacked for it.")] = 1000,
    drop_overlap: Annotated[
        bool, typer.Option("--drop-overlap", help="Leave out pool images that are in the victim's data.")
    ] = False,
    keep_clones: Annotated[bool, typer.Option("--keep-clones", help="Write every clone to the run's folder.")] = False,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Load pickled models, which can run any code.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print the records as JSON lines.")] = False,
) -> None:
    """Attack a victim and report what was stolen."""
    from modelmoat.assessment import BRACKET, AssessmentSpec
    from modelmoat.attacks import parse_attack
    from modelmoat.cli.options import by_option_names, checked_device, read_limit, read_numbers, read_precision
    from modelmoat.defenses import parse_defense
    from modelmoat.training import FitSettings
    from modelmoat.training.evasion import parse_evasion
    from modelmoat.victims import OutputFormat

    limit = read_limit(fail_above, LIMITED) if fail_above is not None else None
    with by_option_names(_OPTION_OF):
        spec = AssessmentSpec(
            victim=victim,
            data=data,
            data_seed=data_seed,
            pool=pool,
            attacks=tuple(parse_attack(text) for text in attack or ([] if suite else ["knockoff"])),
            suite=suite,
            bracketed=bracket,
            accounts=accounts,
            benign_share=benign_share,
            defenses=tuple(parse_defense(text) for text in defense or ["none"]),
            budgets=read_numbers("--budget", budget, least=1),
            seeds=read_numbers("--seed", seed, least=0),
            output=OutputFormat.parse(output),
            clone_arch=clone_arch,
            clone_init=clone_init,
            clone_fit=FitSettings(
                epochs=clone_epochs,
                min_steps=clone_min_steps,
                lr=clone_lr,
                batch_size=batch_size,
                precision=read_precision(precision),
            ),
            device=checked_device(device),
            drop_overlap=drop_overlap,
            keep_clones=keep_clones,
            allow_pickle=allow_pickle,
            price_per_1000=price,
            target_fidelity=target,
            robust=parse_evasion(robust) if robust is not None else None,
            robust_images=robust_images,
        )
    records = run_and_report(spec, out, as_json=json_)
    if limit:
        ends = set(BRACKET) - {defense.spec for defense in spec.defenses}  # what was added to compare with
        _verdict([record for record in records if record.defense not in ends], *limit)


def run_and_report(spec: AssessmentSpec, out: Path, *, as_json: bool = False) -> list[Record]:
    """Assess with bars, write the report, and print what came of it."""
    from modelmoat.assessment import assess as run_assessment
    from modelmoat.cli.progress import bars
    from modelmoat.cli.verdict import print_verdict
    from modelmoat.report import write_report

    with bars() as shown:
        records = run_assessment(spec, out, command=["modelmoat", *sys.argv[1:]], observer=_Shown(shown))
    page = write_report(out)
    if as_json:
        for record in records:
            typer.echo(record.model_dump_json())
    print_verdict(records, spec.target_fidelity, spec.price_per_1000, page, to_stderr=as_json)
    return records


class _Shown:
    """Shows an assessment on progress bars: one for all records, one for the current stage."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._stage = ""

    def cells(self, done: int, total: int) -> None:
        self._bars.show("records", done, total)

    def stage(self, name: str, done: int, total: int) -> None:
        if name != self._stage:
            self._bars.remove(self._stage)
            self._stage = name
        self._bars.show(name, done, total)


def _verdict(records: list[Record], metric: str, limit: float) -> None:
    """Exit with 3 when the mean over seeds of some cell is above the limit; baselines that ask nothing do not count."""
    from collections import defaultdict
    from statistics import mean

    cells: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    asked = [record for record in records if record.sent] or records
    for record in [record for record in asked if record.defense != "none"] or asked:
        cells[record.defense, record.attack, record.budget].append(float(getattr(record, metric)))
    (defense, attack, budget), values = max(cells.items(), key=lambda item: mean(item[1]))
    worst = mean(values)
    words = f"{metric} {worst:.3f} by {attack} against {defense} with {budget:,} queries"
    if worst > limit:
        typer.echo(f"FAIL: {words}; the limit is {limit:g}", err=True)
        raise typer.Exit(EXIT_VERDICT)
    typer.echo(f"PASS: the worst case is {words}; the limit is {limit:g}", err=True)


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("assess", help=HELP)(assess)
