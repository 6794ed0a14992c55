"""Workers: what comes back when a check overruns, breaks down, or cannot read what it looks at."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holonomy.audit import claims
from holonomy.audit.claim import CLAIMS, Setting
from holonomy.audit.runner import Worker, audit, select
from holonomy.core.errors import ConfigError

claims.register_claims()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with Worker(tmp_path / "worker.log") as made:
        yield made


def test_a_worker_judges_and_goes_on_after_an_overrun_and_a_crash(worker: Worker, tmp_path: Path) -> None:
    task = ("judge", "geometry.hierarchy-ceiling", Setting(tmp_path))
    fault, found = worker.ask(task, 0.0)
    assert found is None
    assert "took more than 0 s" in fault
    fault, found = worker.ask(task, 120.0)
    assert fault == ""
    assert found is not None and found.status == "pass"

    process = worker._process
    killer = threading.Thread(target=lambda: (time.sleep(0.2), process.kill()))
    killer.start()
    fault, found = worker.ask(("judge", "geometry.curvature-learns", Setting(tmp_path)), 120.0)
    killer.join()
    assert found is None
    assert fault.startswith("the process broke down")
    assert worker.ask(task, 120.0)[0] == ""


def test_an_error_of_the_package_is_a_verdict_with_its_message(worker: Worker, tmp_path: Path) -> None:
    fault, found = worker.ask(("train", "mamba", Setting(tmp_path)), 120.0)
    assert found is None
    assert "KeyError" in fault


def test_verdicts_come_in_the_order_of_the_claims(tmp_path: Path) -> None:
    chosen = select(["geometry.hierarchy-ceiling", "geometry.radius-is-geodesic"], family=None, full=False)
    seen: list[str] = []
    verdicts = audit(chosen, jobs=2, seed=5, watch=lambda v: seen.append(v.id))
    assert [v.id for v in verdicts] == [c.id for c in chosen]
    assert sorted(seen) == sorted(v.id for v in verdicts)
    assert {v.status for v in verdicts} == {"pass"}
    assert {v.seed for v in verdicts} == {5}


def test_claims_are_chosen_by_name_and_family() -> None:
    assert select(["geometry."], family=None, full=False) == [c for c in CLAIMS if c.id.startswith("geometry.")]
    assert all("lior" in c.families for c in select(None, family="lior", full=True))
    with pytest.raises(ConfigError, match="did you mean `geometry.axioms`"):
        select(["geometry.axiom_"], family=None, full=False)
    with pytest.raises(ConfigError, match="says nothing about runs of the family lior"):
        select(["geometry.axioms"], family="lior", full=False)
