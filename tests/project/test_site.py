"""What the documentation site is made of: its pages, recipes, notebook, and the names that it links to."""

import re
import runpy
import sys
import types
import warnings
from importlib import import_module

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from art_sensreg import SensitivityPenalty, SensRegClassifier, auditing
from tests.paths import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_prompt_is_in_a_block_of_code(page):
    outside = re.sub(r"^ *(```+).*?^ *\1 *$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"^ *>>>.*", outside, re.MULTILINE) == []


def test_every_page_is_in_a_table_of_contents():
    lists = "".join(page.read_text() for page in (DOCS / "index.md", DOCS / "api" / "index.md"))
    named = set(re.findall(r"^[\w/]+$", lists, re.MULTILINE))
    pages = {
        str(page.relative_to(DOCS).with_suffix("")) for page in [*DOCS.glob("*.md"), *DOCS.glob("notebooks/*.ipynb")]
    }
    assert pages - named == {"index"}
    assert {page.stem for page in (DOCS / "api").glob("*.rst")} <= named


def test_the_site_links_to_names_that_exist():
    for _, pages in runpy.run_path(str(DOCS / "conf.py"))["LINKS"].values():
        for name in pages:
            module, _, attribute = name.rpartition(".")
            assert hasattr(import_module(module), attribute), name


def test_the_page_on_citing_names_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    page = (DOCS / "cite.md").read_text()
    assert f"version = {{{citation['version']}}}" in page
    assert citation["title"] in page.replace("\\_", "_")


def test_the_notebook_has_the_outputs_of_a_whole_run():
    """`make docs` runs it."""
    text = (DOCS / "notebooks" / "defend_attack_audit.ipynb").read_text()
    counts = [int(count) for count in re.findall(r'"execution_count": (\d+)', text)]
    assert sorted(set(counts)) == list(range(1, max(counts) + 1))
    assert "no failure detected" in text
    assert not re.search(r"/(home|tmp|root|Users)/", text)


# --- the recipes of docs/audit_others.md, with stand-ins for what they download ---------------------------------------


def recipe(name):
    page = (DOCS / "audit_others.md").read_text()
    (code,) = re.findall(rf"```python\n(# {name}\n.*?)```", page, re.DOTALL)
    return code


def network(channels, nb_classes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, nb_classes))
    model.num_classes = nb_classes
    return model


@pytest.fixture
def few_checks(monkeypatch):
    """The audit's other checks have tests of their own."""
    for name in set(auditing.CHECKS) - {"eval_mode", "inputs_in_range", "deterministic"}:
        monkeypatch.delitem(auditing.CHECKS, name)


def test_the_recipe_for_robustbench(monkeypatch, few_checks, capsys):
    def load_model(model_name, dataset, threat_model):
        assert (model_name, dataset, threat_model) == ("Wong2020Fast", "cifar10", "Linf")
        return network(3, 10).train()

    def load_cifar10(n_examples):
        return torch.rand(n_examples, 3, 32, 32)[:20], torch.arange(20) % 10

    package = types.ModuleType("robustbench")
    monkeypatch.setitem(sys.modules, "robustbench", package)
    monkeypatch.setitem(sys.modules, "robustbench.data", types.SimpleNamespace(load_cifar10=load_cifar10))
    monkeypatch.setitem(sys.modules, "robustbench.utils", types.SimpleNamespace(load_model=load_model))
    names = {}
    exec(recipe("audit_robustbench.py"), names)
    assert [check.status for check in names["report"].checks] == ["PASS"] * 3
    assert "Verdict: no failure detected" in capsys.readouterr().out


def test_the_recipe_for_timm(tmp_path, monkeypatch, few_checks):
    made = network(3, 12)
    config = {"input_size": (3, 32, 32), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

    def create_model(name, pretrained):
        assert pretrained
        return made

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    monkeypatch.setitem(sys.modules, "timm.data", types.SimpleNamespace(resolve_model_data_config=lambda model: config))
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).random((20, 3, 32, 32), dtype=np.float32)
    np.savez("my_images.npz", x_test=x, y_test=np.arange(20) % 12)
    names = {}
    exec(recipe("audit_timm.py"), names)
    assert [check.status for check in names["report"].checks] == ["PASS"] * 3
    mean, std = (np.array(config[name], dtype=np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
    predicted = names["classifier"].predict(x)
    expected = made.cpu()((torch.tensor(x) - torch.tensor(mean)) / torch.tensor(std)).detach().numpy()
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-5)


# --- the tables of docs/layers.md -------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder, self.position = nn.TransformerEncoder(layer, 1), nn.Parameter(torch.zeros(1, 6, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoder(x + self.position).mean(1))


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(6, 4, 3), nn.Linear(24, 3)
        self.norms = nn.Sequential(nn.InstanceNorm1d(4), nn.GroupNorm(2, 4), nn.LayerNorm(6), nn.RMSNorm(6))

    def forward(self, x):
        return self.head(self.norms(torch.relu_(self.conv(x))).flatten(1))


def fit(model, layers):
    """Trains for an epoch; returns the value of SR."""
    x, y = np.random.default_rng(0).random((24, 6, 8), dtype=np.float32), np.arange(24) % 3
    classifier = SensRegClassifier(
        model,
        nn.CrossEntropyLoss(),
        (6, 8),
        3,
        optimizer=torch.optim.Adam(model.parameters()),
        clip_values=(0.0, 1.0),
        penalties=[SensitivityPenalty(layers=layers)],
        device_type="cpu",
    )
    classifier.fit(x, y, nb_epochs=1, verbose=False, seed=0)
    return classifier.history[0]["sensitivity"]


@pytest.mark.parametrize(
    ("model", "layers"),
    [(Recurrent, ["rnn"]), (Transformer, "hidden"), (Norms, "hidden"), (lambda: torch.jit.script(Norms()), "logits")],
)
def test_a_supported_architecture_trains_without_a_warning(model, layers):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert fit(model(), layers) > 0


@pytest.mark.parametrize(
    ("model", "layers", "message"),
    [
        (Recurrent, "hidden", "finds nothing to tap"),
        (lambda: torch.jit.script(Norms()), ["conv"], "TorchScript module"),
    ],
)
def test_what_cannot_be_read_is_refused(model, layers, message):
    with pytest.raises(ValueError, match=message):
        fit(model(), layers)
