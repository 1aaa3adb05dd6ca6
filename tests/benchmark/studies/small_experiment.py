"""A small experiment on the digits: a headline row with aimed attacks, a variant, and a row that nobody can make."""

from art_sensreg.benchmark.config import SuiteRequest
from art_sensreg.benchmark.studies.experiments import Choice, Experiment, Row, run_experiment
from art_sensreg.benchmark.studies.experiments.cell import Laboratory
from art_sensreg.benchmark.studies.experiments.folder import ExperimentFolder

REQUEST = SuiteRequest(
    dataset="digits", model="mlp", eps=((0.02, 0.05),), train_size=400, test_size=60, epochs=4, budget="smoke",
    batch_size=32,
)  # fmt: skip
SMALL = Experiment(
    name="small",
    title="Small",
    request=REQUEST,
    rows=(
        Row(name="none", points=30),
        Row(name="sr+jr", seeds=2, points=45, headline=True),
        Row(name="sr+jr_light", defence="sr+jr", options={"sigma": 0.1}, settings={"epochs": 2}, points=20),
        Row(name="magic"),
    ),
    aimed=("hidden-away",),
    aimed_points=12,
)


def laboratory(out, experiment=SMALL):
    return Laboratory(experiment, ExperimentFolder(out))


def run(out, experiment=SMALL, **choice):
    """What a call did, and what it said."""
    said = []
    return run_experiment(experiment, Choice(**choice), out, say=said.append), said
