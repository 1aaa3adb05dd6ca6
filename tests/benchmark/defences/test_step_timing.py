"""The step cost: own steps and plain ones by the same clock, which here is not that of the machine."""

import pytest
import torch

from art_sensreg.benchmark.defences.step_timing import PlainSteps, StepTimer
from tests.benchmark.defences.from_art.training import small_spec


class Clock:
    """Seconds that pass only where a test lets them; every plain step, which asks twice, takes `tick`."""

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick / 2
        return self.now


def steps(count, clock, seconds, optimizers=1):
    """Steps of another model, each of which takes so many seconds."""
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(optimizers)]
    made = [torch.optim.SGD([parameter], lr=0.1) for parameter in parameters]
    for number in range(count):
        clock.now += seconds(number)
        for parameter, optimizer in zip(parameters, made, strict=True):
            parameter.grad = torch.ones(1)
            optimizer.step()


def plain_of(monkeypatch, unit):
    """Let plain steps take what `unit` says of each block."""
    blocks = iter(range(100))
    monkeypatch.setattr(PlainSteps, "seconds", lambda self, *limits: unit(next(blocks)))


def test_each_block_is_compared_with_the_plain_steps_around_it(digits, monkeypatch):
    spec, clock = small_spec(digits, n=320, epochs=9, batch_size=32), Clock()  # blocks of ten steps
    drift = [1.0, 2.0, 4.0, *[4.0] * 20]
    plain_of(monkeypatch, lambda block: drift[block])
    with StepTimer(spec, clock) as timer:
        steps(1, clock, lambda number: 1000.0)  # the first step sets everything up
        steps(30, clock, lambda number: [3.0, 6.0, 8.0][number // 10])
    assert timer.ratios() == pytest.approx([3 / 1.5, 6 / 3, 8 / 4])  # of a run that was stopped early


def test_a_second_optimizer_is_part_of_the_step(digits, monkeypatch):
    spec, clock = small_spec(digits, n=320, epochs=9, batch_size=32), Clock()
    plain_of(monkeypatch, lambda block: 1.0)
    with StepTimer(spec, clock) as timer:
        steps(90, clock, lambda number: 5.0, optimizers=2)
    assert timer.ratios() == pytest.approx([5.0] * len(timer.ratios()))
    assert len(timer.ratios()) >= 9


def test_plain_steps_change_nothing_of_what_they_interrupt(digits):
    spec = small_spec(digits)

    def trained(timed):
        torch.manual_seed(0)
        classifier = spec.classifier()
        if timed:
            with StepTimer(spec) as timer:
                classifier.fit(spec.dataset.x_train, spec.dataset.y_train, batch_size=32, nb_epochs=2, verbose=False)
            assert timer.spent > 0
            assert len(timer.units) == len(timer.ratios()) + 1
        else:
            classifier.fit(spec.dataset.x_train, spec.dataset.y_train, batch_size=32, nb_epochs=2, verbose=False)
        return classifier.model.state_dict(), torch.rand(3)

    (weights, drawn), (plain, drawn_plain) = trained(True), trained(False)
    assert torch.equal(drawn, drawn_plain)
    assert all(torch.equal(value, plain[name]) for name, value in weights.items())


def test_large_models_make_fewer_plain_steps(digits):
    clock = Clock(tick=10.0)
    assert PlainSteps(small_spec(digits), clock).seconds(steps=30, patience=3.0) == 5.0
    assert clock.now == 10.0  # one step: two looks at the clock


def test_what_makes_no_steps_has_no_repeats(digits):
    with StepTimer(small_spec(digits)) as timer:
        pass
    assert timer.ratios() == ()
    assert len(timer.units) == 1
