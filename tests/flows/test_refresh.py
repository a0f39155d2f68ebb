"""Test `provenlm refresh`: it publishes complete versions, and only of changed sources without regression."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows import releases


class World:
    """Hold a project with a remote, an origin and pages that change."""

    def __init__(self, project, server):
        self.project, self.server, self.folder = project, server, project.root.parent
        self.pages, self.regression = {"a": "A", "b": "B"}, 0.0
        self.write()
        project.set("corpora", "words", scrape={"world": str(self.folder / "world.json")})
        project.dvc("config", "core.no_scm", "false")
        project.dvc("remote", "add", "--default", "store", str(self.folder / "store"))
        project.commit()
        project.git("init", "--quiet", "--bare", str(self.folder / "origin.git"))
        project.git("remote", "add", "origin", str(self.folder / "origin.git"))
        project.git("push", "--quiet", "origin", "main")

    def write(self):
        (self.folder / "world.json").write_text(json.dumps(self.pages))
        (self.folder / "difference.json").write_text(json.dumps(self.regression))

    def change(self, **pages):
        self.pages |= pages
        self.write()

    def start(self):
        return self.project.start("proof", command="refresh", **self.server)

    def refresh(self):
        """Run a refresh and return the last line but one, which says how it ended."""
        process = self.start()
        out, err = process.communicate()
        assert process.returncode == 0, out + err
        return out.splitlines()[-2]

    def last(self):
        return releases.latest_release(self.project.root, "proof")

    def pull_clone(self, version):
        """Clone `version`, pull its data, and return whether nothing is left to build, and what filter read."""
        clone = self.folder / f"clone-{len(list(self.folder.iterdir()))}"
        self.project.git("clone", "--quiet", "--branch", version, str(self.folder / "origin.git"), str(clone))
        dvc = [sys.executable, "-m", "dvc"]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        subprocess.run([*dvc, "pull", "--quiet"], cwd=clone, check=True, env=environment)
        out = subprocess.run([*dvc, "status"], cwd=clone, check=True, capture_output=True, text=True, env=environment).stdout
        return "up to date" in out, json.loads((clone / "data/words/filtered/all.json").read_text())["read"]


@pytest.fixture
def world(built, server):
    return World(built, server)


def test_refreshes_publish_first_and_changed_sources_only(world):
    head = world.project.git("rev-parse", "HEAD")
    assert world.refresh().startswith("Published: published/proof/")
    first = world.last()

    world.pages.pop("b")
    world.change(a="another", c="C")
    assert world.refresh().startswith("Published: ")
    second = world.last()
    assert second > first
    up_to_date, read = world.pull_clone(second)
    assert up_to_date and [source for source, _ in read] == ["a", "c"]
    message = world.project.git("tag", "--list", "--format=%(contents)", second)
    assert f"no regression against {first}: small: +0.0000 bits/byte" in message
    assert "words: 1 records added, 1 changed, 1 removed" in message and "- removed: b" in message
    assert world.project.git("rev-parse", "HEAD") == head and not world.project.git("status", "--porcelain")
    assert world.refresh() == f"Unchanged: no record changed; {second} is still current"


@pytest.mark.slow  # two or more refreshes, each with twenty DVC processes
def test_a_regressed_model_is_not_published(world):
    world.refresh()
    first, world.regression = world.last(), 0.03
    world.change(c="C")
    assert world.refresh().startswith("Not published: proof: not published, regression against published/proof/")
    assert world.last() == first
    world.regression = 0.01
    world.write()
    assert world.refresh().startswith("Published")


@pytest.mark.slow  # three refreshes, each with twenty DVC processes
@pytest.mark.parametrize("moment", ["scrape begins", "train begins", "prepared", "committed"])
def test_a_killed_refresh_leaves_the_last_version_and_the_next_one_resumes(world, moment, until, eventually):
    world.refresh()
    first = world.last()
    world.change(c="C")
    if moment.endswith("begins"):
        world.project.set("recipes", "small", train={"steps": 30, "pause": 0.1})
        world.project.set("corpora", "words", scrape={"world": str(world.folder / "world.json"), "steps": 10, "pause": 0.1})
        world.project.commit()
        process = world.start()
        until(moment, process)
        process.kill()
        process.communicate()
    else:  # git runs the hook before and after it creates the tag
        hook = world.project.root / ".git/hooks/reference-transaction"
        hook.write_text(
            f'#!/bin/sh\nread -r old new name\ncase "$1 $name" in "{moment} refs/tags/published/"*)\n'
            "  kill -9 $(awk '{print $4}' /proc/$PPID/stat); sleep 1; exit 1;;\nesac\n"
        )
        hook.chmod(0o755)
        process = world.start()
        process.communicate()
        hook.unlink()
    assert process.returncode == -9
    eventually(lambda: not world.project.processes())
    assert (world.last() == first) == (moment != "committed")
    assert world.pull_clone(first)[0]
    line = world.refresh()
    assert line.startswith("Unchanged" if moment == "committed" else "Published")
    up_to_date, read = world.pull_clone(world.last())
    assert up_to_date and [source for source, _ in read] == ["a", "b", "c"]


@pytest.mark.slow  # two or more refreshes, each with twenty DVC processes
def test_a_failed_push_is_retried(world):
    tries = world.folder / "tries"
    hook = world.folder / "origin.git/hooks/pre-receive"
    hook.write_text(f"#!/bin/sh\necho once more >> {tries}\n[ $(wc -l < {tries}) -gt 1 ]\n")
    hook.chmod(0o755)
    assert world.refresh().startswith("Published")
    assert len(tries.read_text().splitlines()) == 2
    assert world.pull_clone(world.last())[0]


@pytest.mark.slow  # two or more refreshes, each with twenty DVC processes
def test_concurrent_refreshes_wait_and_the_second_finds_no_change(world):
    world.refresh()
    world.change(c="C")
    both = [world.start() for _ in range(2)]
    ended = [process.communicate()[0].splitlines()[-2].split(":")[0] for process in both]
    assert sorted(ended) == ["Published", "Unchanged"]
    assert len(world.project.git("tag", "--list").splitlines()) == 2


@pytest.mark.slow  # two or more refreshes, each with twenty DVC processes
def test_a_refresh_builds_on_the_last_version_and_later_commits(world):
    world.refresh()
    world.change(c="C")
    world.refresh()
    world.project.set("recipes", "small", train={"steps": 5, "pause": 0})
    world.project.commit()
    world.change(d="D")
    world.refresh()
    _, read = world.pull_clone(world.last())
    assert [source for source, _ in read] == ["a", "b", "c", "d"]
    assert "steps: 5" in world.project.git("show", f"{world.last()}:params.yaml")
    world.project.git("merge", "--quiet", world.last())
    assert world.refresh().startswith("Unchanged")


def test_a_report_without_schedule_cannot_be_refreshed(project, server):
    project.set("reports", "proof", schedule=None)
    process = project.start("proof", command="refresh", **server)
    _, err = process.communicate()
    assert process.returncode == 1
    assert err == (
        "provenlm refresh: params.yaml: reports.proof.schedule must be set, "
        "such as {cron: null, max_regression_bits_per_byte: 0.02}, got null\n"
    )
