"""What the callbacks write is the history, in the services' own files; a resumed run continues in the same place."""

import sys
import types

import pytest

from art_sensreg.training import MLflowCallback, TensorBoardCallback, WandbCallback
from tests.conftest import same_weights, weights_of
from tests.training.helpers import Stop, fit_armed, small_model

pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 3  # in an epoch: 24 examples in batches of 8


def scalars(folder):
    """What TensorBoard's own reader finds: the (step, value) pairs of each name."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(str(folder))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri((tmp_path / "mlruns").as_uri())
    yield mlflow
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(before)


def only_run(mlflow, experiment):
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return client, run


class FakeWandb(types.ModuleType):
    """As much of the package as the callback uses."""

    def __init__(self):
        super().__init__("wandb")
        self.run, self.started = None, []

    def init(self, **settings):
        run = types.SimpleNamespace(id=settings.get("id", "new"), settings=settings, logged=[], finished=False)
        run.log = lambda values, step: run.logged.append((step, values))
        run.finish = lambda: setattr(run, "finished", True)
        self.started.append(run)
        return run


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_tensorboard_shows_the_history(tmp_path):
    trainer = fit_armed(small_model(), callbacks=[TensorBoardCallback(tmp_path / "run")])
    shown = scalars(tmp_path / "run")
    assert set(shown) == set(trainer.history[0])
    for name, points in shown.items():
        assert points == [(STEPS * record["epoch"], pytest.approx(record[name])) for record in trainer.history]


def test_tensorboard_shows_steps(tmp_path):
    trainer = fit_armed(small_model(), callbacks=[TensorBoardCallback(str(tmp_path / "run"), every=2)])
    shown = scalars(tmp_path / "run")
    assert [step for step, _ in shown["step/loss"]] == [2, 4, 6]
    assert {name for name in shown if name.startswith("step/")} == {"step/loss", "step/base"}
    assert len(trainer.history) == 2


def test_a_resumed_run_writes_on_where_the_interrupted_one_stopped(tmp_path):
    def fit(name, *callbacks, **options):
        callbacks = [TensorBoardCallback(tmp_path / name, every=1), *callbacks]
        fit_armed(small_model(), folder=tmp_path / f"checkpoints-{name}", epochs=3, callbacks=callbacks, **options)

    fit("whole")
    with pytest.raises(InterruptedError):
        fit("parts", Stop(5))  # the last checkpoint is that of step 3: steps 4 and 5 are done again
    fit("parts", resume=True)
    whole, parts = scalars(tmp_path / "whole"), scalars(tmp_path / "parts")
    assert parts["step/loss"] == whole["step/loss"]
    assert parts["loss"] == whole["loss"]


def test_callbacks_that_only_look_change_nothing(tmp_path, wandb):
    plain, watched = small_model(), small_model()
    without = fit_armed(plain)
    looking = [TensorBoardCallback(tmp_path, every=1), WandbCallback(every=1)]
    assert same_weights(weights_of(without.classifier), weights_of(fit_armed(watched, callbacks=looking).classifier))


def test_mlflow_holds_the_history_and_the_settings(mlflow):
    callback = MLflowCallback("digits", run_name="sr+jr", params={"sigma": 0.3}, every=4)
    trainer = fit_armed(small_model(), callbacks=[callback])
    client, run = only_run(mlflow, "digits")
    assert (run.info.run_name, run.info.status, run.data.params) == ("sr+jr", "FINISHED", {"sigma": "0.3"})
    assert set(run.data.metrics) == {*trainer.history[0], "step/loss", "step/base"}
    for name in trainer.history[0]:
        points = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
        assert points == [(STEPS * record["epoch"], record[name]) for record in trainer.history]
    assert mlflow.active_run() is None


def test_mlflow_uses_the_active_run_and_leaves_it_open(mlflow):
    mlflow.set_experiment("mine")
    with mlflow.start_run() as active:
        fit_armed(small_model(), callbacks=[MLflowCallback(params={"weight": 1})])
        assert mlflow.active_run().info.run_id == active.info.run_id
        assert mlflow.MlflowClient().get_run(active.info.run_id).info.status == "RUNNING"
    _, run = only_run(mlflow, "mine")
    assert run.data.params == {"weight": "1"}
    assert run.data.metrics["epoch"] == 2


def test_a_second_training_is_a_second_mlflow_run(mlflow):
    callback = MLflowCallback("twice")
    fit_armed(small_model(), callbacks=[callback])
    fit_armed(small_model(), callbacks=[callback])
    experiment = mlflow.MlflowClient().get_experiment_by_name("twice").experiment_id
    assert len(mlflow.MlflowClient().search_runs([experiment])) == 2


def test_wandb_gets_the_history(wandb):
    trainer = fit_armed(small_model(), callbacks=[WandbCallback(project="digits", every=3)])
    (run,) = wandb.started
    assert run.settings == {"project": "digits"}
    assert [step for step, values in run.logged if "loss" in values] == [3, 6]
    assert [values for _, values in run.logged if "loss" in values] == trainer.history
    assert [step for step, values in run.logged if "step/loss" in values] == [3, 6]
    assert run.finished


def test_wandb_uses_the_active_run_and_leaves_it_open(wandb):
    wandb.run = wandb.init(project="mine")
    fit_armed(small_model(), callbacks=[WandbCallback(project="other")])
    assert len(wandb.started) == 1
    assert len(wandb.run.logged) == 2
    assert not wandb.run.finished


@pytest.mark.parametrize("kind", [MLflowCallback, WandbCallback])
def test_a_resumed_run_continues_the_run_of_the_service(kind, tmp_path, mlflow, wandb):
    with pytest.raises(InterruptedError):
        fit_armed(small_model(), folder=tmp_path, callbacks=[kind(), Stop(5)])
    fit_armed(small_model(), folder=tmp_path, resume=True, callbacks=[kind()])
    if kind is WandbCallback:
        assert wandb.started[1].settings == {"id": "new", "resume": "allow"}
        assert [step for step, _ in wandb.started[1].logged] == [6]
    else:
        _, run = only_run(mlflow, "art_sensreg")
        assert (run.info.status, run.data.metrics["epoch"]) == ("FINISHED", 2)


@pytest.mark.parametrize(
    ("callback", "package"),
    [(TensorBoardCallback("never-made"), "tensorboard"), (MLflowCallback(), "mlflow"), (WandbCallback(), "wandb")],
)
def test_a_missing_package_is_named_before_any_weight_moves(callback, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    model, untouched = small_model(), small_model()
    with pytest.raises(ImportError, match=f"{package} is missing: pip install {package}"):
        fit_armed(model, callbacks=[callback])
    assert same_weights(list(model.parameters()), list(untouched.parameters()))


def test_a_process_that_is_not_the_first_writes_nothing(wandb):
    callback = WandbCallback(every=1)
    state = types.SimpleNamespace(rank=1, total_steps=1, terms={"loss": 1.0}, history=[{"epoch": 1}])
    for moment in (callback.on_start, callback.on_step, callback.on_epoch, callback.on_end):
        moment(state)
    assert wandb.started == []


@pytest.mark.parametrize(
    "make", [lambda every: TensorBoardCallback("x", every), lambda every: WandbCallback(every=every)]
)
def test_every_is_a_number_of_steps(make):
    with pytest.raises(ValueError, match="`every` is 0; expected a whole number of at least 1"):
        make(0)
