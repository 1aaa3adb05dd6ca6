"""Command line of the step-cost measurement: see `art-sensreg step-cost --help`."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm.auto import tqdm

from art_sensreg.benchmark.cli.arguments import command_words, known_names, program_parser, whole_number
from art_sensreg.benchmark.cli.console import say
from art_sensreg.benchmark.results.writing import plain
from art_sensreg.benchmark.step_cost import (
    MODELS,
    PRECISIONS,
    VARIANTS,
    StepCostSettings,
    cost_table,
    list_names,
    memory_rise,
    model_heading,
    note_lines,
    run_step_cost,
    write_step_cost,
)
from art_sensreg.utils.files import usable_folder

_DESCRIPTION = """
Time full `fit` epochs, and alternatives, against plain PyTorch loops in the same process. Writes `step-cost.json`,
`step-cost.md` and `step-cost.png` to --out and prints the table. It is a measurement, not a test: it reports whether a
target is met, but does not fail.
"""
_EXAMPLES = """
  art-sensreg step-cost --quick                   every model and variant, three repeats
  art-sensreg step-cost --model mlp --variants plain,sr+jr
  art-sensreg step-cost --device cuda --precision bfloat16
"""


def make_step_cost_parser(prog: str = "step_cost.py") -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = program_parser(prog, _DESCRIPTION, _EXAMPLES)
    add = parser.add_argument_group("what is timed").add_argument
    add("--device", type=_device, default="cpu", metavar="DEVICE", help="cpu (default), cuda, cuda:1, ...")
    add(
        "--model",
        type=known_names(MODELS),
        default=tuple(MODELS),
        metavar="NAME,NAME...",
        help="default: all; see --list",
    )
    add("--variants", type=known_names(VARIANTS), default=tuple(VARIANTS), metavar="NAME,NAME...", help="default: all")
    add("--batch-size", type=whole_number, default=128, metavar="N", help="examples per training step (default 128)")
    add("--repeats", type=whole_number, metavar="N", help="paired repeats (default 9; at most 3 for slow variants)")
    add(
        "--epoch-steps",
        type=whole_number,
        metavar="N",
        help="steps of a timed epoch; default: what takes a fraction of a second",
    )
    add("--threads", type=whole_number, default=1, metavar="N", help="threads of torch (default 1)")
    add("--precision", choices=tuple(PRECISIONS), default="float32", help="of the plain loops and of SensRegTrainer")
    add = parser.add_argument_group("the run and its results").add_argument
    add("--out", type=Path, default=Path("results/step-cost"), metavar="DIR", help="default: results/step-cost")
    add("--quick", action="store_true", help="3 repeats, 1 of the slow variants")
    add("--no-memory", action="store_true", help="do not measure peak memory")
    add("--list", action="store_true", help="list models and variants, and exit")
    add("--memory-of", choices=tuple(VARIANTS), help=argparse.SUPPRESS)  # what the run starts for the memory on the CPU
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "step_cost.py") -> int:
    """Run; the exit code is 0, 1 if a variant of this package failed, 2 for wrong arguments."""
    parser = make_step_cost_parser(prog)
    typed = list(sys.argv[1:] if arguments is None else arguments)
    given = parser.parse_args(typed)
    if given.list:
        say(list_names())
        return 0
    if given.batch_size < 2:
        parser.error("argument --batch-size: '1' is too few for BatchNorm; expected a whole number of at least 2")
    torch.set_num_threads(given.threads)
    logging.getLogger("art").setLevel(logging.ERROR)
    if given.memory_of:
        print(json.dumps(plain(memory_rise(given.memory_of, given.model[0], given.batch_size, given.precision))))
        return 0
    try:
        usable_folder("--out", given.out)
    except OSError as error:
        parser.error(str(error))
    command = shlex.join([*command_words(prog), *_without_out(typed)])
    with tqdm(bar_format="{desc} [{elapsed}]", disable=None) as bar:
        results = run_step_cost(_settings(given), command, bar.set_description_str)
    paths = write_step_cost(results, given.out)
    for model in results.models:
        say(f"\n{model_heading(model)}\n{cost_table(model, notes=False).as_text()}", *note_lines(model))
    say("\nWrote:", *(f"  {path}" for path in paths))
    records = [record for model in results.models for record in model.variants]
    return int(any(record.status == "error" and VARIANTS[record.variant].ours for record in records))


def _settings(given: argparse.Namespace) -> StepCostSettings:
    repeats = given.repeats or (3 if given.quick else 9)
    return StepCostSettings(
        models=given.model,
        variants=given.variants,
        device=given.device,
        batch_size=given.batch_size,
        repeats=repeats,
        slow_repeats=min(repeats, 1 if given.quick else 3),
        epoch_steps=given.epoch_steps,
        precision=given.precision,
        threads=given.threads,
        memory=not given.no_memory,
    )


def _device(text: str) -> str:
    known = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    known += [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if text not in known:
        raise argparse.ArgumentTypeError(f"{text!r} is not here; expected one of {', '.join(known)}")
    return text


def _without_out(typed: Sequence[str]) -> list[str]:
    """The command line without --out, which has no bearing on what was measured."""
    kept: list[str] = []
    for position, part in enumerate(typed):
        if part != "--out" and not part.startswith("--out=") and (position == 0 or typed[position - 1] != "--out"):
            kept.append(part)
    return kept
