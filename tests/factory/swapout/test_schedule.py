import pytest

from factory.swapout.schedule import Noise, Schedule

STAGES = (0, 0, 1, 3, 3)


@pytest.mark.parametrize(
    ("schedule", "stages", "wanted"),
    [
        (Schedule.constant(0.7), STAGES, (0.7,) * 5),
        (Schedule.linear(1.0, 0.5), (0,), (0.5,)),
        (Schedule.linear(1.0, 0.5), (0, 0), (1.0, 0.5)),
        (Schedule.linear(1.0, 0.5), (0, 0, 1, 1, 1, 1), (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)),
        (Schedule.linear(0.2, 0.8), STAGES, (0.2, 0.35, 0.5, 0.65, 0.8)),
        (Schedule.linear(1.0, 0.5), (), ()),
        (Schedule.per_stage((0.9, 0.8, 0.7)), STAGES, (0.9, 0.9, 0.8, 0.7, 0.7)),
        (Schedule.per_block((0.9, 0.1, 0.5, 1.0, 0.3)), STAGES, (0.9, 0.1, 0.5, 1.0, 0.3)),
    ],
)
def test_a_schedule_gives_a_probability_for_every_block(
    schedule: Schedule, stages: tuple[int, ...], wanted: tuple[float, ...]
) -> None:
    assert schedule.resolve(stages) == pytest.approx(wanted)
    assert schedule.opposite.resolve(stages) == pytest.approx([1 - p for p in wanted])


def test_a_list_that_does_not_fit_the_network_is_refused() -> None:
    with pytest.raises(ValueError, match="5 residual blocks: expected 5 values, found 2"):
        Schedule.per_block((1.0, 0.5)).resolve(STAGES)
    with pytest.raises(ValueError, match="3 stages with a residual block: expected 3 values, found 4"):
        Schedule.per_stage((1.0,) * 4).resolve(STAGES)


def test_a_schedule_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], found 1\.5"):
        Schedule.linear(1.5, 0.5)
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], found nan"):
        Schedule.constant(float("nan"))
    with pytest.raises(ValueError, match="a linear schedule: expected 2 values, found 3"):
        Schedule("linear", (1.0, 0.5, 0.2))


def test_each_method_has_its_probabilities_and_its_coupling() -> None:
    half, linear = Schedule.constant(0.75), Schedule.linear(1.0, 0.5)
    wanted = {
        Noise.plain(): ((1.0, 1.0), (1.0, 1.0), "independent"),
        Noise.feed_forward(): ((0.0, 1.0), (0.0, 1.0), "independent"),
        Noise.dropout(half): ((0.75, 0.75), (0.75, 0.75), "same"),
        Noise.stochastic_depth(linear): ((1.0, 1.0), (1.0, 0.5), "independent"),
        Noise.skip_forward(half): ((0.75, 0.25), (0.75, 0.25), "opposite"),
        Noise.swapout(linear): ((1.0, 1.0), (0.5, 0.5), "independent"),
        Noise.swapout(linear, half): ((1.0, 0.75), (0.5, 0.75), "independent"),
    }
    for noise, (first, second, coupling) in wanted.items():
        assert noise.probabilities((0, 0)) == (first, second)
        assert noise.coupling == coupling
        assert noise.silent == (noise.method == "plain")
    assert Noise.swapout(Schedule.constant(1.0)).silent


def test_schedules_that_contradict_the_method_are_refused() -> None:
    half = Schedule.constant(0.5)
    with pytest.raises(ValueError, match="dropout: expected stream"):
        Noise("dropout", half, Schedule.constant(0.25))
    with pytest.raises(ValueError, match="stochastic-depth: expected one draw per 'layer' or 'sample', found 'unit'"):
        Noise.stochastic_depth(half, "unit")
    with pytest.raises(ValueError, match="unknown method 'swpout'"):
        Noise("swpout", half, half)  # type: ignore[arg-type]
