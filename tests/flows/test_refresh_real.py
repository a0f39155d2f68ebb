"""Test a refresh with the real crawler, a real model, an S3 remote and an origin."""

import os
import re
import subprocess
import sys

import pytest
import real
from tiny_project import KEYS, Project, eventually

from flows import releases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # four trainings of a real model with all other stages


class World:
    """Hold a project with a site to crawl, a bucket for its data and an origin."""

    def __init__(self, folder, bucket, server):
        self.site, self.folder = real.Site(40), folder
        self.project = real.project(folder / "project", self.site.url)
        self.project.environment |= {**server, **KEYS, "AWS_ENDPOINT_URL": bucket}
        self.project.dvc("remote", "add", "--default", "store", "s3://store/real")
        self.project.commit()
        self.project.git("init", "--quiet", "--bare", str(folder / "origin.git"))
        self.project.git("remote", "add", "origin", str(folder / "origin.git"))
        self.project.git("push", "--quiet", "origin", "main")

    def start(self):
        return self.project.start("proof", command="refresh")

    def refresh(self):
        """Run a refresh and return the last line but one, which says how it ended."""
        process = self.start()
        out, err = process.communicate()
        assert process.returncode == 0, out + err
        return out.splitlines()[-2]

    def last(self):
        return releases.latest_release(self.project.root, "proof")

    def message(self, version):
        return self.project.git("tag", "--list", "--format=%(contents)", version)

    def cloned(self, version):
        """Clone origin at `version` and pull its data from the bucket."""
        clone = object.__new__(Project)
        clone.root = self.folder / f"clone-{len(list(self.folder.iterdir()))}"
        clone.environment = {**os.environ, **self.project.environment}
        self.project.git("clone", "--quiet", "--branch", version, str(self.folder / "origin.git"), str(clone.root))
        clone.dvc("pull", "--quiet")
        return clone


@pytest.fixture(scope="module")
def world(tmp_path_factory, bucket, server):
    world = World(tmp_path_factory.mktemp("world"), bucket, server)
    yield world
    world.site.stop()


def is_complete(clone):
    """Return whether a clone has nothing left to build and its report verifies."""
    verified = subprocess.run(
        [sys.executable, "-m", "provenlm.cli", "verify", "proof"],
        cwd=clone.root,
        env=clone.environment,
        capture_output=True,
        text=True,
    )
    return "Running" not in clone.dvc("repro", "report@proof") and verified.stdout == "verify proof: no mismatch\n"


def test_refreshes_of_a_changed_site_a_killed_training_and_a_regressed_model(world):
    assert world.refresh().startswith("Published: published/proof/")
    first = world.last()
    assert set(world.site.take_answers().values()) == {200}

    assert world.refresh() == f"Unchanged: no record changed; {first} is still current"
    assert set(world.site.take_answers().values()) == {304}

    world.site.texts["/1"] = real.prose(101)
    world.site.removed |= {"/2": 404, "/3": 410}
    world.site.texts["/40"] = real.prose(40)
    process = world.start()
    resume = world.project.root / ".worktrees/refresh-proof/models/.resume/small"
    eventually(lambda: list(resume.rglob("history.parquet")), 300)
    process.kill()
    process.communicate()
    eventually(lambda: not world.project.processes())
    answers = world.site.take_answers()
    assert {page: status for page, status in answers.items() if status != 304} == {
        **{"/": 200, "/1": 200, "/40": 200},
        **{"/2": 404, "/3": 410},
    }
    assert world.last() == first and is_complete(world.cloned(first))

    both = [world.start() for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert sorted(out.splitlines()[-2].split(":")[0] for out in outputs) == ["Published", "Unchanged"]
    assert "going on after step" in "".join(outputs)
    second = world.last()
    assert second > first and is_complete(world.cloned(second))
    message = world.message(second)
    assert re.match(
        rf"proof: no regression against {first}: small: [+-]\d\.\d{{4}} bits/byte against {first} on \d+ common validation records",
        message,
    )
    assert (
        "words: 1 records added, 2 changed, 2 removed" in message
        and f"- removed: {world.site.url}/2, {world.site.url}/3" in message
    )
    assert "| words/scrape.records | 41 | 40 |" in message and "small/validate.val.bits_per_byte" in message

    trained = real.YAML(typ="safe").load(world.project.root / "params.yaml")["recipes"]["small"]["train"]
    world.project.set(
        "recipes", "small", train={**trained, "max_steps": 2, "lr_schedule": {**trained["lr_schedule"], "warmup_steps": 0}}
    )
    world.project.commit()
    world.site.texts["/1"] = real.prose(102)
    line = world.refresh()
    assert re.match(
        rf"Not published: proof: not published, regression against {second}: small: \+\d\.\d{{4}} bits/byte against {second}", line
    )
    assert world.last() == second
