"""Peak memory, measured in a separate process."""

import pytest

from art_sensreg.benchmark.step_cost.memory import memory_in_child


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own():
    rises = memory_in_child("plain", "mlp", batch_size=8, precision="float32", threads=1)
    assert [rise.steps for rise in rises] == [2, 8]
    assert all(rise.megabytes >= 0 for rise in rises)
    with pytest.raises(RuntimeError, match="invalid choice"):
        memory_in_child("nothing", "mlp", batch_size=8, precision="float32", threads=1)
