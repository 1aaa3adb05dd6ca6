"""What a run leaves behind: `results.json` (the contract), `results.csv`, and the masks of each attack."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from art_sensreg.benchmark.config.threat_models import Threats
from art_sensreg.benchmark.results.reading import MASK, SCHEMA, check_run_folder
from art_sensreg.benchmark.results.writing import plain, write_text
from art_sensreg.utils.files import atomic_write, read_regular, usable_folder
from art_sensreg.utils.npz import read_npz
from art_sensreg.utils.stats import wilson_interval
from art_sensreg.utils.text import escape_csv, one_line

# Of a mask of a million images.
_MASK_LIMIT = 2**24


def environment(device: str) -> dict[str, Any]:
    """
    Versions and machine of a run.

    :param device: Device of the run.
    :return: What goes into `results.json`.
    """
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "art": version("adversarial-robustness-toolbox"),
        "art_sensreg": version("art_sensreg"),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


class Records:
    """
    The results of a run in its output folder; saved whole after every cell.

    :param out: Folder.
    :param config: The settings, as JSON.
    :param device: Device of the run.
    :param previous: `results.json` of the run that is resumed, or None.
    :param writes: Whether this process writes the files: of several, only the first does.
    :raises OSError: If nothing can be written into the folder.
    :raises ValueError: If a link or a pipe lies where a file would be written.
    """

    def __init__(
        self,
        out: Path,
        config: dict[str, Any],
        device: str,
        previous: dict[str, Any] | None = None,
        writes: bool = True,
    ) -> None:
        self.out, self.writes = out, writes
        # Where records go instead, in a process that must not write the results.
        self.deliver: Callable[[dict[str, Any]], None] | None = None
        if writes:
            check_run_folder(out)
            usable_folder("--out", out)
            (out / "masks").mkdir(exist_ok=True)
            (out / "checkpoints").mkdir(exist_ok=True)
        runs = previous["runs"] if previous else []
        self.data: dict[str, Any] = {
            "schema": SCHEMA,
            "config": config,
            "environment": environment(device),
            "runs": runs,
        }

    @property
    def runs(self) -> list[dict[str, Any]]:
        """One record per defence and seed."""
        runs: list[dict[str, Any]] = self.data["runs"]
        return runs

    def find(self, defence: str, seed: int) -> dict[str, Any] | None:
        """
        The record of a cell.

        :param defence: Name of the defence.
        :param seed: Seed.
        :return: The record, or None.
        """
        return next((run for run in self.runs if (run["defence"], run["seed"]) == (defence, seed)), None)

    def put(self, run: dict[str, Any]) -> None:
        """
        Store a record in the place of the former one, and save.

        :param run: The record.
        """
        if self.deliver is not None:
            self.deliver(run)
            return
        for index, other in enumerate(self.runs):
            if (other["defence"], other["seed"]) == (run["defence"], run["seed"]):
                self.runs[index] = run
                break
        else:
            self.runs.append(run)
            self.runs.sort(key=self._place)  # one that is made again in a resumed run comes last
        self.save()

    def _place(self, run: dict[str, Any]) -> tuple[int, int]:
        names = self.data["config"].get("defences", [])
        return run["seed"], names.index(run["defence"]) if run["defence"] in names else len(names)

    def save(self) -> None:
        """Write `results.json` and `results.csv`, each aside and renamed."""
        if not self.writes:
            return
        write_text(self.out / "results.json", json.dumps(plain(self.data), indent=1, allow_nan=False) + "\n")
        rows = [
            {
                **{key: run[key] for key in ("defence", "dataset", "seed", "status", "clean_accuracy", "step_cost")},
                **{
                    name: json.dumps(value) if isinstance(value, (dict, list)) else value
                    for name, value in attack.items()
                },
            }
            for run in self.runs
            for attack in run["attacks"] or [{}]
        ]
        names = list(dict.fromkeys(name for row in rows for name in row))
        file = io.StringIO(newline="")
        writer = csv.writer(file)
        writer.writerow(map(escape_csv, names))
        writer.writerows([escape_csv(row.get(name)) for name in names] for row in rows)
        write_text(self.out / "results.csv", file.getvalue())

    def write_mask(
        self, parts: tuple[Any, ...], robust: np.ndarray, attacked: np.ndarray, seen: np.ndarray | None = None
    ) -> str:
        """
        Store the per-example outcome of an attack.

        :param parts: What the file's name is made of.
        :param robust: True where the image is still right after this attack and those before it, `(n,)`.
        :param attacked: True where the image belonged to the attacked part, `(n,)`: what accuracies are shares of.
        :param seen: True where this attack worked on the image: it was not lost before, `(n,)`; None: the attacked.
        :return: Path of the file, relative to the output folder.
        """
        name = "-".join(re.sub(r"[^A-Za-z0-9.+_-]", "_", str(part)) for part in parts)
        path = self.out / "masks" / f"{name}.npz"
        if self.writes:
            file = io.BytesIO()
            np.savez_compressed(file, robust=robust, attacked=attacked, seen=attacked if seen is None else seen)
            atomic_write(path, file.getvalue())
        return f"masks/{path.name}"

    def read_mask(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """
        Read what `write_mask` stored.

        :param name: The path that it returned.
        :return: The `robust` and the `attacked` array.
        :raises OSError: If there is no such file, or it is a link, a pipe or a device.
        :raises ValueError: If the name leads out of the folder, or the file is damaged.
        """
        return read_mask(self.out, name)

    def has_mask(self, name: str | None, n: int | None = None) -> bool:
        """
        Tell whether the outcome of an attack can be read.

        :param name: Path that `write_mask` returned, or None.
        :param n: Number of images, if it is to be compared.
        :return: False if the file is missing, damaged, or of another number of images.
        """
        try:
            return name is not None and n in (None, len(self.read_mask(name)[0]))
        except (OSError, ValueError):
            return False

    def summarise(self, run: dict[str, Any], threats: Threats) -> None:
        """
        Fill in `worst_case` and `union`: the mean over examples of the minimum over attacks.

        Examples that no attack was run on do not count; some attacks see only the first ones. The union is over the
        norms, for the first sizes of all norms together, then the second ones, ...

        :param run: The record.
        :param threats: Norms and sizes.
        """
        outcomes = {
            (threat.norm, eps): self._outcome(run, threat.norm, eps) for threat in threats for eps in threat.eps
        }
        run["worst_case"] = [
            {"norm": norm, "eps": eps, **_share(robust[attacked])}
            for (norm, eps), (robust, attacked) in outcomes.items()
            if attacked.any()
        ]
        run["union"] = []
        for sizes in zip(*(threat.eps for threat in threats), strict=False):
            eps_of = {threat.norm: eps for threat, eps in zip(threats, sizes, strict=True)}
            parts = [outcomes[pair] for pair in eps_of.items()]
            if all(attacked.any() for _, attacked in parts):
                everywhere = np.logical_and.reduce([attacked for _, attacked in parts])
                robust = np.logical_and.reduce([robust for robust, _ in parts])
                run["union"].append({"eps": eps_of, **_share(robust[everywhere])})

    def worst_case(self, run: dict[str, Any], norm: str, eps: float, n: int) -> dict[str, Any] | None:
        """
        The worst case of a run on the first images.

        :param run: The record.
        :param norm: Name of the norm.
        :param eps: Size.
        :param n: Number of images.
        :return: An entry as in `worst_case`, or None if no attack ran.
        """
        robust, attacked = (mask[:n] for mask in self._outcome(run, norm, eps))
        return {"norm": norm, "eps": eps, **_share(robust[attacked])} if attacked.any() else None

    def _outcome(self, run: dict[str, Any], norm: str, eps: float) -> tuple[np.ndarray, np.ndarray]:
        """Which images no attack broke, and which were attacked."""
        masks = [
            self.read_mask(attack["mask"])
            for attack in run["attacks"]
            if (attack["norm"], attack["eps"]) == (norm, eps) and self.has_mask(attack["mask"])
        ]
        if not masks:
            return np.zeros(0, dtype=bool), np.zeros(0, dtype=bool)
        return np.logical_and.reduce([mask[0] for mask in masks]), np.logical_or.reduce([mask[1] for mask in masks])


def read_mask(out: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """
    Read the per-example outcome of an attack.

    :param out: Output folder of the run.
    :param name: Path of the file, relative to it.
    :return: The `robust` and the `attacked` array, `(n,)`.
    :raises OSError: If there is no such file, or it is a link, a pipe or a device.
    :raises ValueError: If the name leads out of the folder, or the file is damaged.
    """
    if not isinstance(name, str) or not MASK.fullmatch(name):
        raise ValueError(f"{one_line(name)!r} is no file in masks/")
    content = read_regular(out / name, _MASK_LIMIT)
    arrays = read_npz(io.BytesIO(content), name, keys=("robust", "attacked"))
    robust, attacked = arrays["robust"], arrays["attacked"]
    if robust.dtype != bool or attacked.dtype != bool or robust.ndim != 1 or robust.shape != attacked.shape:
        raise ValueError(f"{name} does not hold the outcomes of an attack")
    return robust, attacked


def _share(robust: np.ndarray) -> dict[str, Any]:
    low, high = wilson_interval(int(robust.sum()), len(robust))
    return {"robust_accuracy": float(robust.mean()), "ci_low": low, "ci_high": high, "n": len(robust)}
