"""Settings of the documentation site: `make docs` builds it into build/docs, without a network."""

from __future__ import annotations

import re
import sys
import zlib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import art_sensreg  # noqa: E402

REPOSITORY = "https://github.com/art-sensreg/art_sensreg"

project = "art_sensreg"
author = "The art_sensreg authors"
version = release = art_sensreg.__version__
language = "en-GB"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.intersphinx", "myst_nb", "sphinx_gallery.gen_gallery"]
exclude_patterns = [
    "gallery/*",
    "sg_execution_times.rst",
    *(f"auto_gallery/*.{kind}" for kind in ("ipynb", "py", "json", "md5", "zip")),
]
suppress_warnings = ["config.cache"]  # the key of the gallery's sorting, a function

html_theme = "furo"
html_title = f"art_sensreg {release}"
html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": "docs/"}
html_show_copyright = False

# Markdown. The notebook's stored outputs are shown: `make docs` executes it too, `make notebook` renews them.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
nb_execution_mode = "off"

# Docstrings in ART's style: `:param x:`, with `x` for code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "filename_pattern": r"/plot_",
    "min_reported_time": 1,
    "show_memory": False,
    "abort_on_example_error": True,
    "download_all_examples": False,
    "remove_config_comments": True,
}

# Other projects' pages, by the names that docstrings and signatures use. Sphinx would fetch whole inventories from the
# network; these few are written here, so that the build needs none and is the same everywhere.
ART = "https://adversarial-robustness-toolbox.readthedocs.io/en/latest/"
LINKS = {
    "python": (
        "https://docs.python.org/3/",
        {
            "collections.abc.Callable": "library/collections.abc.html",
            "collections.abc.Iterable": "library/collections.abc.html",
            "collections.abc.Mapping": "library/collections.abc.html",
            "collections.abc.Sequence": "library/collections.abc.html",
            "pathlib.Path": "library/pathlib.html",
        },
    ),
    "numpy": ("https://numpy.org/doc/stable/", {"numpy.ndarray": "reference/generated/numpy.ndarray.html"}),
    "torch": (
        "https://docs.pytorch.org/docs/stable/",
        {
            "torch.Tensor": "tensors.html",
            "torch.device": "tensor_attributes.html",
            "torch.nn.Module": "generated/torch.nn.Module.html",
            "torch.nn.modules.module.Module": "generated/torch.nn.Module.html#torch.nn.Module",
            "torch.optim.Optimizer": "optim.html",
            "torch.optim.optimizer.Optimizer": "optim.html#torch.optim.Optimizer",
            "torch.utils.data.DataLoader": "data.html",
        },
    ),
    "sklearn": (
        "https://scikit-learn.org/stable/",
        {
            "sklearn.base.BaseEstimator": "modules/generated/sklearn.base.BaseEstimator.html",
            "sklearn.base.ClassifierMixin": "modules/generated/sklearn.base.ClassifierMixin.html",
        },
    ),
    "pandas": ("https://pandas.pydata.org/docs/", {"pandas.DataFrame": "reference/api/pandas.DataFrame.html"}),
    "art": (
        ART,
        {
            "art.attacks.attack.EvasionAttack": "modules/attacks.html#art.attacks.EvasionAttack",
            "art.defences.trainer.trainer.Trainer": "modules/defences/trainer.html#art.defences.trainer.Trainer",
            "art.estimators.classification.PyTorchClassifier": "modules/estimators/classification.html",
            "art.estimators.classification.pytorch.PyTorchClassifier": (
                "modules/estimators/classification.html#art.estimators.classification.PyTorchClassifier"
            ),
        },
    ),
}


def _inventory(name: str, pages: dict[str, str]) -> str:
    """Write the inventory of a project in Sphinx's format, and return its path."""
    path = ROOT / "build" / "inventories" / f"{name}.inv"
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"# Sphinx inventory version 2\n# Project: {name}\n# Version:\n# The remainder is compressed using zlib.\n"
    rows = [f"{key} py:class 1 {page if '#' in page else page + '#$'} -\n" for key, page in pages.items()]
    path.write_bytes(head.encode() + zlib.compress("".join(rows).encode()))
    return str(path)


intersphinx_mapping = {name: (url, _inventory(name, pages)) for name, (url, pages) in LINKS.items()}


def _link_to_repository(app: Any, name: str, source: list[str]) -> None:
    """Pages link to files outside docs/ as `../FILE`, which GitHub understands; the site needs an address."""
    source[0] = re.sub(r"\]\(\.\./(?!results)([^)]+)\)", rf"]({REPOSITORY}/blob/main/\1)", source[0])


def _separate_examples(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """ART's docstrings write `Example:` right above the prompts; reStructuredText wants an empty line between."""
    for number in reversed([n for n, line in enumerate(lines) if line.strip() == "Example:"]):
        lines[number : number + 1] = ["", "**Example:**", ""]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _link_to_repository)
    app.connect("autodoc-process-docstring", _separate_examples)
