"""The shipped code on a virtual clock: whatever fails, nothing is lost and nothing comes twice."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from simulation import clock
from simulation.__main__ import report
from simulation.experiment import Experiment, Outcome, random_experiment, read_experiment
from simulation.faults import LISTED
from simulation.found import FOUND
from simulation.guards import GUARDS, Guard
from simulation.scenarios import ENUMERATED, SCENARIOS
from simulation.search import Piece, Tally, carry_out, following, pieces, seeds, try_all
from simulation.story import tell

SAMPLE = 200
"""Random experiments of every day."""

SEARCHED = 1_500
"""Random experiments in which a missing guard has to be noticed, where the noted one no longer does."""


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """The library logs every fault that it survives."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def run(experiment: Experiment) -> Outcome:
    with clock.virtual():
        return experiment.run()


def story(experiment: Experiment) -> list[str]:
    return list(tell(run(experiment).world))


@pytest.mark.parametrize("scenario", ENUMERATED)
def test_no_single_fault_breaks_a_promise(scenario: str) -> None:
    """Every fault at every await of a small run is survived."""
    tally = carry_out(Piece("singles", scenario))
    assert tally.failures == []
    assert tally.schedules > 150


def test_a_thaw_at_a_rare_point_breaks_no_promise() -> None:
    """A zombie that wakes up while another asks the bank does no harm, and the schedules of two faults in the
    small scenarios don't show that."""
    tally = carry_out(Piece("thaws", "bank-queue"))
    assert tally.failures == []
    assert {point for point, kind in tally.fired if kind == "thaw"} == {
        "reconcile:before",
        "reconcile:after",
    }


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_scenario_holds_without_faults(scenario: str) -> None:
    """Without a fault no promise is broken, and nothing counts as a fault."""
    outcome = run(Experiment(scenario))
    assert outcome.violations == []
    assert outcome.world.struck == []


def test_no_sample_of_random_faults_breaks_a_promise() -> None:
    """Up to six random faults in random scenarios are survived."""
    tally = carry_out(Piece("seeds", number=SAMPLE))
    assert tally.failures == []
    assert sum(tally.fired.values()) > SAMPLE


@pytest.mark.long
@pytest.mark.parametrize("piece", list(pieces(list(SCENARIOS), [], 0, 10_000)), ids=str)
def test_no_long_search_finds_anything(piece: Piece) -> None:
    """Every fault at every await of each scenario, and ten thousand random schedules, are survived."""
    assert carry_out(piece).failures == []


@pytest.mark.parametrize("guard", GUARDS, ids=str)
def test_a_missing_guard_is_noticed(guard: Guard) -> None:
    """Without a guard of the library, an experiment breaks a promise that holds with it."""
    assert run(read_experiment(guard.experiment)).violations == []
    with clock.virtual(), guard.removed():
        assert first_failure(guard) is not None


def first_failure(guard: Guard) -> Experiment | None:
    """The experiment that is noted, or where the code awaits otherwise by now, the first of many."""
    tried: Iterable[Experiment] = (read_experiment(guard.experiment), *seeds(0, SEARCHED))
    return next((one for one in tried if one.run().violations), None)


@pytest.mark.parametrize("text", FOUND)
def test_what_was_found_stays_mended(text: str) -> None:
    """A schedule that broke a promise once breaks none."""
    assert run(read_experiment(text)).violations == []


@pytest.mark.parametrize("seed", [7, 22, 63, 113, 567])
def test_an_experiment_repeats_itself(seed: int) -> None:
    """The same seed is the same story, told by name or by seed; another seed is another."""
    experiment = random_experiment(seed)
    first = run(experiment)
    assert story(experiment) == list(tell(first.world))
    assert story(read_experiment(str(first.exact))) == list(tell(first.world))
    assert story(random_experiment(seed + 1)) != list(tell(first.world))


def test_an_experiment_is_the_same_in_every_process() -> None:
    """No order of hashes or addresses decides: another process tells the same story."""
    command = [sys.executable, "-m", "simulation", "--seed", "22"]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=100)
    lines = story(random_experiment(22))
    assert ended.stdout.splitlines()[: len(lines)] == lines


def test_a_failure_prints_how_to_repeat_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A search that finds something ends with 1, and prints the fewest faults that fail again."""
    guard = next(one for one in GUARDS if one.name == "a live claim keeps others off")
    with guard.removed():
        with clock.virtual():
            tally = try_all([read_experiment(f"{guard.experiment},150:stop")])
        assert report(tally, whole=False) == 1
        assert f"just simulate '{guard.experiment}'" in capsys.readouterr().out
        assert run(read_experiment(guard.experiment)).violations


def test_a_fault_that_never_fires_fails_a_search(capsys: pytest.CaptureFixture[str]) -> None:
    """A whole search in which one listed fault fired nowhere ends with 1, and names it."""
    complete = Tally(fired=Counter(LISTED))
    assert report(complete, whole=True) == 0
    del complete.fired["tool:after", "die"]
    assert report(complete, whole=True) == 1
    assert "die at tool:after" in capsys.readouterr().out


def test_every_two_faults_are_tried_once() -> None:
    """Schedules of two faults that begin with a given one are all different, and their second comes later."""
    first = read_experiment("small-local@3:freeze")
    with clock.virtual():
        tried = [tuple(one.faults) for one in following(first)]
    assert len(tried) == len(set(tried)) > 100
    assert all(first.faults[0].at < second.at for _, second in tried)
