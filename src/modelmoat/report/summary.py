"""The verdict of a run as numbers: best clone, queries to reach most of it, cheapest defense that holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modelmoat.core.errors import RunError
from modelmoat.core.records import Record
from modelmoat.metrics.intervals import Interval
from modelmoat.report.curves import FLOOR, Curve, Point, aggregate, curves, one_victim, queries_to_reach, thefts

MOST = 0.9  # share of the best clone's fidelity that counts as most of the model


@dataclass(frozen=True, slots=True)
class Reach:
    """Queries that a fidelity takes; ``queries`` is None where no measured budget reaches it."""

    fidelity: float
    queries: float | None
    at_most: bool = False
    attack: str = ""


@dataclass(frozen=True, slots=True)
class Best:
    """The best clone of the undefended victim, over all attacks and budgets."""

    attack: str
    budget: int
    queries: float
    label: str
    fidelity: Interval
    clone_accuracy: Interval
    most: Reach


@dataclass(frozen=True, slots=True)
class DefenseResult:
    """The worst case of one defense over the tested attacks, up to the largest budget of the run.

    ``holds`` says whether the worst mean fidelity stays under the target; it is None where the defense was not measured
    with every attack that the undefended victim faced at the largest budget (``missing`` names them). ``accuracy_loss``
    is a share, ``mean_l1`` lies in [0, 2], ``slowdown`` is the ratio of queries to the undefended victim's, or None
    where a curve starts too late or ends too soon to tell.
    """

    defense: str
    label: str
    worst_attack: str
    worst_budget: int
    fidelity: Interval
    clone_accuracy: Interval
    defended_accuracy: float
    accuracy_loss: float
    mean_l1: float
    latency_ratio: float
    top1_changed: float
    most: Reach | None
    slowdown: float | None
    holds: bool | None
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """The verdict numbers of one run.

    ``best`` is None without rows of the undefended victim. ``to_target`` says after how many queries the best tested
    attack on the undefended victim reaches the target fidelity. ``defense_aware`` says whether some defended record is of an
    attacker who reckoned with a defense; ``labels_only`` says whether there are defended records and all of them are of
    answers that leave as labels, by their kind or by the defense. ``unstolen`` is the fidelity of the best clone that was
    made without asking anything. ``fewest_seeds`` is the smallest number of seeds behind any point. ``inside`` is the
    defense in the victim's own file, which the rows called undefended have too.
    """

    target_fidelity: float
    victim: str
    inside: str | None
    victims: int
    largest_budget: int
    seeds: int
    fewest_seeds: int
    test_size: int
    victim_accuracy: float
    defense_aware: bool
    labels_only: bool
    best: Best | None
    unstolen: Interval | None
    to_target: Reach | None
    defenses: tuple[DefenseResult, ...]
    cheapest: DefenseResult | None

    @property
    def strongest(self) -> DefenseResult | None:
        """The defense with the least faithful worst-case clone, whether it holds or not."""
        return min(self.defenses, key=lambda result: (result.fidelity.mean, result.label), default=None)

    @property
    def floor_only(self) -> bool:
        """Whether nothing but labels alone was tested beside the undefended victim."""
        return bool(self.defenses) and all(result.defense == FLOOR for result in self.defenses)

    @property
    def needs_defense(self) -> bool:
        """Whether a clone of the undefended victim reaches the target; True where that was not measured."""
        return self.best is None or self.best.fidelity.mean >= self.target_fidelity


def summarize(records: Sequence[Record], target_fidelity: float) -> Summary:
    """Compute the verdict of a run from its records; ``target_fidelity`` is a share in [0, 1].

    In a run with several victims, the verdict is that of the most stealable one. Raises `RunError` without records.
    """
    if not records:
        raise RunError("no records to summarize; fix: run modelmoat assess first")
    return summarize_points(aggregate(records), target_fidelity)


def summarize_points(points: Sequence[Point], target_fidelity: float) -> Summary:
    """Compute the verdict from points that are already averaged over seeds."""
    chosen, victims = one_victim(thefts(points))
    lines = curves(chosen)
    plain = [line for line in lines if line.undefended]
    best = _best(plain)
    largest = max(point.budget for point in chosen)
    results = _defenses(lines, best, largest, target_fidelity)
    defended = [point.record for point in chosen if not point.undefended]
    return Summary(
        target_fidelity=target_fidelity,
        victim=chosen[0].record.victim,
        inside=chosen[0].record.defense_inside,
        victims=victims,
        largest_budget=largest,
        seeds=len({seed for point in chosen for seed in point.seeds}),
        fewest_seeds=min(len(point.seeds) for point in chosen),
        test_size=min(point.record.test_size for point in chosen),
        victim_accuracy=_mean(chosen, "victim_accuracy"),
        defense_aware=any(record.defense_aware for record in defended),
        labels_only=bool(defended)
        and all(record.output_kind == "label" or record.defense == FLOOR for record in defended),
        best=best,
        unstolen=_unstolen(points, chosen),
        to_target=_fastest(plain, target_fidelity) if plain else None,
        defenses=tuple(results),
        cheapest=min((result for result in results if result.holds), key=_cost, default=None),
    )


def _best(lines: Sequence[Curve]) -> Best | None:
    if not lines:
        return None
    pairs = [(point, line) for line in lines for point in line.points]
    point, line = max(pairs, key=lambda pair: (pair[0].fidelity.mean, -pair[0].queries))
    return Best(
        attack=point.attack_label,
        budget=point.budget,
        queries=point.queries,
        label=point.defense_label,
        fidelity=point.fidelity,
        clone_accuracy=point.metrics["clone_accuracy"],
        most=_reach(line, MOST * point.fidelity.mean),
    )


def _unstolen(points: Sequence[Point], chosen: Sequence[Point]) -> Interval | None:
    """Of the victim of ``chosen``, unless these are baselines themselves."""
    victim, asked = chosen[0].record.victim, bool(chosen[0].queries)
    found = [point.fidelity for point in points if asked and not point.queries and point.record.victim == victim]
    return max(found, key=lambda fidelity: fidelity.mean, default=None)


def _reach(line: Curve, fidelity: float) -> Reach:
    queries = queries_to_reach(line.points, fidelity)
    return Reach(fidelity, queries, line.points[0].fidelity.mean >= fidelity, line.attack)


def _fastest(lines: Sequence[Curve], fidelity: float) -> Reach:
    reached = [reach for line in lines if (reach := _reach(line, fidelity)).queries is not None]
    return min(reached, key=lambda reach: reach.queries or 0.0, default=Reach(fidelity, None))


def _defenses(lines: Sequence[Curve], best: Best | None, largest: int, target: float) -> list[DefenseResult]:
    needed = _attacks_at(largest, [line for line in lines if line.undefended] or lines)
    labels = dict.fromkeys(line.defense for line in lines if not line.undefended)
    return [
        _defense([line for line in lines if line.defense == label], best, largest, target, needed) for label in labels
    ]


def _defense(lines: Sequence[Curve], best: Best | None, largest: int, target: float, needed: set[str]) -> DefenseResult:
    points = [point for line in lines for point in line.points]
    worst = max(points, key=lambda point: point.fidelity.mean)
    missing = tuple(sorted(needed - _attacks_at(largest, lines)))
    most = _fastest(lines, best.most.fidelity) if best else None
    at_largest = [point for point in points if point.budget == largest] or points
    failed = worst.fidelity.mean >= target
    return DefenseResult(
        defense=worst.defense,
        label=worst.defense_label,
        worst_attack=worst.attack_label,
        worst_budget=worst.budget,
        fidelity=worst.fidelity,
        clone_accuracy=worst.metrics["clone_accuracy"],
        defended_accuracy=_mean(at_largest, "defended_accuracy"),
        accuracy_loss=sum(point.accuracy_loss for point in at_largest) / len(at_largest),
        mean_l1=_mean(at_largest, "mean_l1"),
        latency_ratio=_mean(at_largest, "latency_ratio"),
        top1_changed=_mean(at_largest, "top1_changed"),
        most=most,
        slowdown=_slowdown(best, most),
        holds=False if failed else (None if missing else True),
        missing=missing,
    )


def _attacks_at(budget: int, lines: Sequence[Curve]) -> set[str]:
    return {line.attack for line in lines if any(point.budget == budget for point in line.points)}


def _slowdown(best: Best | None, most: Reach | None) -> float | None:
    if best is None or most is None or best.most.at_most or most.at_most or not most.queries or not best.most.queries:
        return None
    return most.queries / best.most.queries


def _mean(points: Sequence[Point], name: str) -> float:
    return sum(point.metrics[name].mean for point in points) / len(points)


def _cost(result: DefenseResult) -> tuple[float, float, float, str]:
    """Order of price: accuracy lost, then mean L1, then the clone's fidelity; rounded so that equal means tie."""
    return (round(result.accuracy_loss, 6), round(result.mean_l1, 6), round(result.fidelity.mean, 6), result.label)
