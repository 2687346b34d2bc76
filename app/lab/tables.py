"""The tables of a report, independent of its format. Every number names the runs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, isnan, nan
from statistics import fmean, median

from app.lab.gathering import ArmResults, Gathered, Run, common_seeds, finite, published, tuning_values
from app.lab.space import Value
from app.lab.statistics import (
    SEEDS_FOR_BOOTSTRAP,
    Difference,
    Summary,
    holm,
    median_with_unreached,
    paired,
    spearman,
    summary,
)
from app.lab.study import Target

DASH = "-"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What it says.
        runs: Anchor of the list of the run directories behind it; empty for a cell without a measurement.
    """

    text: str
    runs: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a title and a note on how to read it."""

    title: str
    note: str
    header: list[str]
    rows: list[list[Cell]]


def anchor(results: ArmResults, phase: str) -> str:
    """Return the name of the list of an arm's runs."""
    return f"runs-{results.arm.folder}-{phase}"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with some significant digits."""
    if value is None or isnan(value):
        return DASH
    if not isfinite(value):
        return "not reached" if value > 0 else "-inf"
    return f"{value:.{digits}g}"


def mean_sd(found: Summary) -> str:
    """Return ``mean ± sd``."""
    return number(found.mean) + ("" if isnan(found.sd) else f" ± {number(found.sd, 2)}")


def point(values: dict[str, Value] | None) -> str:
    """Return the values of a configuration in a line."""
    if values is None:
        return DASH
    return ", ".join(f"{short(name)} {_value(value)}" for name, value in values.items()) or "nothing tuned"


def short(name: str) -> str:
    """Return the last part of an option."""
    return name.removeprefix("model.").removeprefix("trainer.").replace("optimizer.", "")


def _value(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def design(gathered: Gathered) -> Table:
    """Return what was tuned for each cell."""
    rows = []
    for results in gathered.arms:
        arm = results.arm
        space = "; ".join(
            f"{short(dimension.name)} {dimension.kind.replace('_', ' ')} {list(dimension.values)}"
            for dimension in arm.tuned
        )
        points = len({run.number for run in results.tuning})
        rows.append(
            [
                Cell(arm.label),
                Cell(f"the points of {arm.parent}, changed as the control says" if arm.parent else space or "nothing"),
                Cell(str(points), anchor(results, "tuning")),
                Cell(f"{arm.parameters:,}" if arm.parameters else DASH),
                Cell(point(results.best), anchor(results, "reporting")),
            ]
        )
    note = (
        f"Each cell has the same number of trials. The configuration with the best validation "
        f"{gathered.choose_by.name} is chosen. Seeds for tuning: {_seeds(gathered.study.tuning_seeds)}; seeds for "
        f"reporting: {_seeds(gathered.study.reporting_seeds)}."
    )
    return Table("Design", note, ["cell", "tuned", "trials", "parameters", "chosen"], rows)


def results_table(gathered: Gathered) -> Table:
    """Return test and validation results over the reporting seeds, with published numbers."""
    metric = gathered.outcome.name
    rows = []
    for results in gathered.arms:
        test = list(results.reported("test", metric).values())
        validation = list(results.reported("validation", metric).values())
        link = anchor(results, "reporting")
        known = published(results.arm, metric)
        row = [
            Cell(results.label),
            Cell(f"{len(test)} of {len(results.reporting)}", link),
            Cell(mean_sd(summary(test)) if test else DASH, link),
            Cell(mean_sd(summary(validation)) if validation else DASH, link),
            Cell(number(fmean(test) - fmean(validation), 2) if test and validation else DASH, link),
            Cell(f"{number(known.mean)} ± {number(known.sd, 2)} ({known.source})" if known else DASH),
        ]
        rows.append(row)
    header = ["cell", "seeds", f"test {metric}", f"validation {metric}", "gap: test - validation", "published"]
    if all(row[-1].text == DASH for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    note = (
        "Mean and sample standard deviation over the reporting seeds. The test set was read once, by the epoch that "
        "validation chose. Published numbers may come from another protocol; the source says which."
    )
    return Table("Results", note, header, rows)


@dataclass(frozen=True)
class Comparison:
    """Two arms and what their difference is."""

    first: ArmResults
    second: ArmResults
    difference: Difference
    holm: float


def comparisons(gathered: Gathered) -> list[Comparison]:
    """Return every cell against the baseline, and every cell against its controls."""
    pairs = [(gathered.baseline, results) for results in gathered.arms[1:] if results.arm.parent is None]
    pairs += [
        (results, gathered.arm(results.arm.parent)) for results in gathered.arms if results.arm.parent is not None
    ]
    found = []
    for first, second in pairs:
        a, b = common_seeds(first, second, gathered.outcome.name)
        if a:
            found.append((first, second, paired(a, b)))
    adjusted = holm([difference.p for *_, difference in found])
    return [Comparison(*items, p) for items, p in zip(found, adjusted, strict=True)]


def comparison_table(gathered: Gathered) -> Table | None:
    """Return the paired differences with intervals and tests; None before two cells have a seed in common."""
    found = comparisons(gathered)
    rows = []
    for comparison in found:
        difference = comparison.difference
        interval = difference.interval
        link = anchor(comparison.second, "reporting")
        rows.append(
            [
                Cell(f"{comparison.second.label} - {comparison.first.label}"),
                Cell(str(difference.count), link),
                Cell(number(difference.mean, 3), link),
                Cell(f"[{number(interval.low, 3)}, {number(interval.high, 3)}]" if interval else DASH, link),
                Cell(number(difference.p, 3), link),
                Cell(number(difference.smallest_p, 3)),
                Cell(number(comparison.holm, 3), link),
                Cell(comparison.first.arm.question or "Is the cell better than the baseline?"),
            ]
        )
    better = "higher" if gathered.outcome.mode == "max" else "lower"
    count = max((comparison.difference.count for comparison in found), default=0)
    kind = "a studentized bootstrap" if count >= SEEDS_FOR_BOOTSTRAP else "Student's t distribution"
    note = (
        f"Differences of the test {gathered.outcome.name}, paired by seed; {better} is better. The interval is 95 %, "
        f"by {kind}. p is that of an exact sign-flip permutation test, two-sided; it cannot be below the smallest p. "
        "Holm's correction is over all rows. A cell whose difference from a control is small is explained by it."
    )
    header = ["difference", "pairs", "mean", "95 % interval", "p", "smallest p", "Holm p", "explanation tested"]
    return Table("Comparisons", note, header, rows) if rows else None


def target_table(gathered: Gathered) -> Table | None:
    """Return what it costs to reach each target; None for a study without targets."""
    rows = []
    for target in gathered.study.targets:
        for results in gathered.arms:
            costs = [cost_of(run, target) for run in results.reporting if run.outcome is not None]
            if not costs:
                continue
            link = anchor(results, "reporting")
            epochs, seconds, flops = ([cost and cost[place] for cost in costs] for place in range(3))
            rows.append(
                [
                    Cell(str(target)),
                    Cell(results.label),
                    Cell(f"{sum(cost is not None for cost in costs)} of {len(costs)}", link),
                    *(Cell(number(median_with_unreached(values)), link) for values in (epochs, seconds)),
                    Cell(_tera(flops), link),
                    Cell(f"{results.arm.parameters:,}" if results.arm.parameters else DASH),
                ]
            )
    note = (
        "Medians over the reporting seeds. A run that does not reach the target counts as infinite, also if it failed "
        "or diverged. FLOPs are those of the matrix products of training, forward and backward; elementwise work is "
        "left out, so a cell with an adaptive drive counts like one without."
    )
    header = ["target", "cell", "reached", "epochs", "seconds", "TFLOPs", "parameters"]
    return Table("Cost of reaching a target", note, header, rows) if rows else None


def cost_of(run: Run, target: Target) -> tuple[float, float, float] | None:
    """Return epochs, seconds and FLOPs until a run reached a target; None if it did not. FLOPs may be nan."""
    for row in run.curves:
        value = row.get(target.metric.name)
        if value is not None and target.reached(value):
            flops = (run.results or {}).get("flops") or {"forward": nan, "backward": nan}
            return row["epoch"], row["seconds"], (flops["forward"] + flops["backward"]) * row["step"]
    return None


def _tera(flops: Sequence[float | None]) -> str:
    if any(value is not None and isnan(value) for value in flops):
        return DASH
    return number(median_with_unreached(flops) / 1e12)


def sensitivity_table(gathered: Gathered) -> Table:
    """Return how much the validation metric depends on the hyperparameters."""
    rows = []
    sign = 1 if gathered.choose_by.mode == "max" else -1
    for results in gathered.arms:
        every = tuning_values(results, gathered.choose_by)
        complete = finite(every)
        values = sorted((sign * value for _, value in complete), reverse=True)
        if not values:
            continue
        correlations = []
        for dimension in results.arm.tuned:
            known = [(v[dimension.name], value) for v, value in complete if dimension.name in v]
            if dimension.numeric and len(known) > 2:
                rho = spearman([float(v) for v, _ in known], [sign * value for _, value in known])  # type: ignore[arg-type]
                correlations.append(f"{short(dimension.name)} {number(rho, 2)}")
        quartile = values[min(len(values) - 1, len(values) // 4)]
        rows.append(
            [
                Cell(results.label),
                Cell(f"{len(complete)} of {len(every)}", anchor(results, "tuning")),
                *(
                    Cell(number(sign * value), anchor(results, "tuning"))
                    for value in (values[0], quartile, median(values), values[-1])
                ),
                Cell(", ".join(correlations) or DASH, anchor(results, "tuning")),
            ]
        )
    note = (
        f"Validation {gathered.choose_by.name} over the tuning trials. A cell whose median is close to its best is "
        "easy to tune. The correlation is Spearman's, of each hyperparameter with quality: near 1, larger is better."
    )
    header = ["cell", "complete", "best", "upper quartile", "median", "worst", "rank correlation with quality"]
    return Table("Sensitivity to hyperparameters", note, header, rows)


def failure_table(gathered: Gathered) -> Table | None:
    """Return the runs that ended without a result; None if there are none."""
    rows = [
        [
            Cell(run.name, f"run-{run.name}"),
            Cell(results.label),
            Cell(run.phase),
            Cell(point(run.values)),
            Cell(run.status),
            Cell(run.outcome.message),
        ]
        for results in gathered.arms
        for run in [*results.tuning, *results.reporting]
        if run.outcome and run.outcome.status != "complete"
    ]
    note = "Diverged and pruned runs count against the budget of their cell. A failed run can be started again."
    header = ["run", "cell", "phase", "values", "status", "message"]
    return Table("Failed, diverged and pruned runs", note, header, rows) if rows else None


def _seeds(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
