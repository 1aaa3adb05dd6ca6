"""The output of `art-sensreg step-cost`: its table, `step-cost.json`, `step-cost.md`, `step-cost.png`."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from art_sensreg.benchmark.results.writing import json_text, save_picture, write_text
from art_sensreg.benchmark.step_cost.loops import MODELS
from art_sensreg.benchmark.step_cost.records import ModelRecord, StepCostResults, VariantRecord
from art_sensreg.benchmark.step_cost.variants import TARGETS, VARIANTS
from art_sensreg.utils.tables import Table

UNITS = {"epoch": "PyTorch epoch", "predict": "PyTorch predict", "gradient": "PyTorch gradient"}
NOTES = """*time / unit* is the median over paired repeats: each time of a variant is divided by the mean of its unit's
times just before and after; *quartiles* are those of these ratios. The unit of a variant that trains is an epoch of a
plain PyTorch loop (shuffle, forward, cross-entropy, backward, Adam, running sums) of as many steps; what
`SensRegTrainer.fit` does before its first step, checks of the model and the data, is done once a training, and is not
counted. Prediction and the
gradient of the loss have units of their own: a plain `no_grad` loop over the same batches, and a plain `autograd.grad`
with respect to the input. *ms* is the time of a step, or of a call. *met* compares the unrounded median with the
target, whatever the spread is."""
CPU_MEMORY = """*peak memory* is how far the memory of a separate process rises above that just before training, with
data for {few} and for {many} steps."""
CUDA_MEMORY = """*peak memory* is what an epoch allocates on the GPU beyond what was allocated before; `fit` copies the
data there, while the plain loops have theirs there from the start."""


def write_step_cost(data: StepCostResults, out: Path) -> list[Path]:
    """Write the three files."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"step-cost.{ending}" for ending in ("json", "md", "png")]
    write_text(paths[0], json_text(data))
    write_text(paths[1], step_cost_page(data))
    plot_step_cost(data, paths[2])
    return paths


def step_cost_page(data: StepCostResults) -> str:
    """The page in Markdown."""
    config = data.config
    environment = ", ".join(f"{name} {value}" for name, value in data.environment.items())
    parts = [
        "# What a training step costs",
        f"```\n{data.command}\n```",
        f"Environment: {environment}.",
        f"Random images, whose classes can be learned; batches of {config['batch_size']}, {config['precision']}; "
        f"{config['repeats']} paired repeats, {config['slow_repeats']} of the slow variants; "
        f"{data.minutes:.1f} minutes in all.",
        NOTES,
    ]
    rises = [record.memory for model in data.models for record in model.variants if record.memory]
    if rises and len(rises[0]) > 1:
        parts.append(CPU_MEMORY.format(few=rises[0][0].steps, many=rises[0][-1].steps))
    elif rises:
        parts.append(CUDA_MEMORY)
    parts.append("![Time of each variant over that of its plain PyTorch loop](step-cost.png)")
    parts.append(summary_table(data).as_markdown())
    for model in data.models:
        parts.append(f"## {model_heading(model)}\n\n{cost_table(model).as_markdown()}")
    names = list(dict.fromkeys(record.variant for model in data.models for record in model.variants))
    parts.append("## The variants\n\n" + "\n".join(f"- **{name}**: {VARIANTS[name].summary}." for name in names))
    return "\n\n".join(parts) + "\n"


def summary_table(data: StepCostResults) -> Table:
    """The ratios alone: one row per variant, one column per model."""
    columns = [{record.variant: record.ratio for record in model.variants} for model in data.models]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [
        [name, *("-" if column.get(name) is None else f"{column[name]:.2f}" for column in columns)] for name in names
    ]
    return Table(["time / plain PyTorch loop", *(model.model for model in data.models)], rows)


def model_heading(model: ModelRecord) -> str:
    """
    Name of a model, and how long its units take.

    Example:
    >>> from art_sensreg.benchmark.step_cost.report import model_heading
    >>> model_heading(ModelRecord(model="mlp", epoch_steps=90, lean_seconds={"epoch": 0.0015}, variants=()))
    'mlp: epochs of 90 steps; PyTorch step 1.50 ms'
    """
    names = {**UNITS, "epoch": "PyTorch step"}
    times = [f"{names[unit]} {1000 * seconds:.2f} ms" for unit, seconds in model.lean_seconds.items()]
    return f"{model.model}: epochs of {model.epoch_steps} steps; {', '.join(times)}"


def cost_table(model: ModelRecord, notes: bool = True) -> Table:
    """One row per variant of a model."""
    rises = next((record.memory for record in model.variants if record.memory), ())
    memory = f"peak memory MB, {' / '.join(str(rise.steps) for rise in rises)} steps"
    header = ["variant", "unit", "time / unit", "quartiles", "ms", "target", "met", memory]
    rows = [_row(record, model.epoch_steps) for record in model.variants]
    if notes:
        header.append("note")
        rows = [[*row, _note(record)] for row, record in zip(rows, model.variants, strict=True)]
    kept = [column for column in range(len(header)) if any(row[column] for row in rows)]
    return Table([header[column] for column in kept], [[row[column] for column in kept] for row in rows])


def _row(record: VariantRecord, steps: int) -> list[str]:
    times = ["-", "-", "-"]
    if record.ratio is not None and record.quartiles is not None:
        low, high = record.quartiles
        seconds = median(record.seconds) / (steps if record.unit == "epoch" else 1)
        times = [f"{record.ratio:.2f}", f"{low:.2f} to {high:.2f}", f"{1000 * seconds:.2f}"]
    return [
        record.variant,
        UNITS[record.unit],
        *times,
        _target(record),
        {True: "yes", False: "no", None: ""}[record.met],
        " / ".join(f"{rise.megabytes:.0f}" for rise in record.memory),
    ]


def _note(record: VariantRecord) -> str:
    reason = record.reason.replace("|", "/")
    return {"ok": "", "not_applicable": "not available: ", "error": "failed: "}[record.status] + reason


def note_lines(model: ModelRecord) -> list[str]:
    """What was not measured, and why, for the terminal, where a column of sentences would be too wide."""
    return [f"{record.variant}: {_note(record)}" for record in model.variants if _note(record)]


def _target(record: VariantRecord) -> str:
    number = "" if record.target is None else f"{record.target:.2f}"
    words = " ".join(filter(None, [number, record.target_variant and f"({record.target_variant})"]))
    return f"at most {words}" if words else ""


def list_names() -> str:
    """Every model and variant, one line each."""
    lines = ["Models:"]
    for model in MODELS.values():
        shape = "x".join(map(str, model.input_shape))
        norm = ", BatchNorm" if model.norm_layer == "batch" else ""
        lines.append(f"  {model.name:18} {model.architecture} with {model.activation}{norm} on {shape}")
    lines.append("Variants:")
    for variant in VARIANTS.values():
        bounds = sorted({str(bound) for bound in TARGETS.get(variant.name, {}).values()})
        by_model = ", by model" if len(bounds) > 1 else ""
        target = f" (target: at most {' or '.join(bounds)}{by_model})" if bounds else ""
        lines.append(f"  {variant.name:18} {variant.summary}{target}")
    return "\n".join(lines)


def plot_step_cost(data: StepCostResults, path: Path) -> None:
    """Plot the ratios, one panel per model, with their quartiles and targets."""
    from matplotlib.figure import Figure

    models = data.models
    names = [record.variant for record in models[0].variants]
    figure = Figure(figsize=(2.5 + 3 * len(models), 1.5 + 0.35 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for axes, model in zip(panels, models, strict=True):
        for place, record in enumerate(model.variants):
            if record.ratio is None or record.quartiles is None:
                axes.text(1, place, " not measured", va="center", fontsize=8, color="grey")
                continue
            low, high = record.quartiles
            axes.barh(place, record.ratio, color="C0" if VARIANTS[record.variant].ours else "lightgrey")
            axes.plot([low, high], [place, place], color="black", linewidth=1.5)
            if record.target is not None:
                axes.plot([record.target] * 2, [place - 0.45, place + 0.45], color="C3", linewidth=2)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_title(model.model)
        axes.set_xlabel("time / plain PyTorch loop")
    panels[0].set_yticks(range(len(names)), names)
    panels[0].invert_yaxis()
    figure.suptitle("Median and quartiles of paired ratios; red: target; grey: not this package", fontsize=10)
    save_picture(figure, path)
