"""`python -m flows.refresh`: a version is published whole or not at all, and only where the world changed for no worse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows import releases


class World:
    """A project with a remote, an origin, and pages that change."""

    def __init__(self, project, server):
        self.project, self.server, self.folder = project, server, project.root.parent
        self.pages, self.worse = {"a": "A", "b": "B"}, 0.0
        self.say()
        project.set("corpora", "words", scrape={"world": str(self.folder / "world.json")})
        project.dvc("config", "core.no_scm", "false")
        project.dvc("remote", "add", "--default", "store", str(self.folder / "store"))
        project.commit()
        project.git("init", "--quiet", "--bare", str(self.folder / "origin.git"))
        project.git("remote", "add", "origin", str(self.folder / "origin.git"))
        project.git("push", "--quiet", "origin", "main")

    def say(self):
        (self.folder / "world.json").write_text(json.dumps(self.pages))
        (self.folder / "difference.json").write_text(json.dumps(self.worse))

    def change(self, **pages):
        self.pages |= pages
        self.say()

    def start(self):
        return self.project.start("proof", command="refresh", **self.server)

    def refresh(self):
        """What the command says last: how it ended."""
        process = self.start()
        out, err = process.communicate()
        assert process.returncode == 0, out + err
        return out.splitlines()[-2]

    def last(self):
        return releases.latest_release(self.project.root, "proof")

    def whole(self, version):
        """Whether a clone of origin at `version` gets all its data, of the world of then, from the remote, with nothing to build."""
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


def test_a_first_refresh_publishes_a_second_finds_nothing_and_a_changed_world_is_a_new_version(world):
    head = world.project.git("rev-parse", "HEAD")
    assert world.refresh().startswith("Published: published/proof/")
    first = world.last()
    assert world.whole(first)[0]
    assert world.refresh() == f"Unchanged: no record changed; {first} stays"

    world.pages.pop("b")
    world.change(a="another", c="C")
    assert world.refresh().startswith("Published: ")
    second = world.last()
    assert second > first
    fits, read = world.whole(second)
    assert fits and [source for source, _ in read] == ["a", "c"]
    why = world.project.git("tag", "--list", "--format=%(contents)", second)
    assert f"no worse than {first}: small: +0.0000 bits/byte" in why
    assert "words: 1 records added, 1 changed, 1 gone" in why and "- gone: b" in why
    assert world.project.git("rev-parse", "HEAD") == head and not world.project.git("status", "--porcelain")
    assert world.refresh() == f"Unchanged: no record changed; {second} stays"


@pytest.mark.slow  # two or more refreshes, each starts DVC twenty times
def test_a_worse_net_is_not_published(world):
    world.refresh()
    first, world.worse = world.last(), 0.03
    world.change(c="C")
    assert world.refresh().startswith("Kept: proof: kept published/proof/")
    assert world.last() == first
    world.worse = 0.01
    world.say()
    assert world.refresh().startswith("Published")


@pytest.mark.slow  # three refreshes, each starts DVC twenty times
@pytest.mark.parametrize("moment", ["scrape begins", "train begins", "prepared", "committed"])
def test_a_refresh_killed_at_any_moment_leaves_the_last_good_version_and_the_next_one_goes_on(world, moment, until, eventually):
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
    else:  # git tells when it is about to make the tag, and when it has made it
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
    assert world.whole(first)[0]
    said = world.refresh()
    assert said.startswith("Unchanged" if moment == "committed" else "Published")
    fits, read = world.whole(world.last())
    assert fits and [source for source, _ in read] == ["a", "b", "c"]


@pytest.mark.slow  # two or more refreshes, each starts DVC twenty times
def test_a_push_that_fails_once_is_tried_again(world):
    tries = world.folder / "tries"
    hook = world.folder / "origin.git/hooks/pre-receive"
    hook.write_text(f"#!/bin/sh\necho once more >> {tries}\n[ $(wc -l < {tries}) -gt 1 ]\n")
    hook.chmod(0o755)
    assert world.refresh().startswith("Published")
    assert len(tries.read_text().splitlines()) == 2
    assert world.whole(world.last())[0]


@pytest.mark.slow  # two or more refreshes, each starts DVC twenty times
def test_two_refreshes_at_once_take_turns_and_the_second_finds_nothing_to_do(world):
    world.refresh()
    world.change(c="C")
    both = [world.start() for _ in range(2)]
    ended = [process.communicate()[0].splitlines()[-2].split(":")[0] for process in both]
    assert sorted(ended) == ["Published", "Unchanged"]
    assert len(world.project.git("tag", "--list").splitlines()) == 2


@pytest.mark.slow  # two or more refreshes, each starts DVC twenty times
def test_a_refresh_builds_on_the_last_version_and_on_what_people_committed_since(world):
    world.refresh()
    world.change(c="C")
    world.refresh()
    world.project.set("recipes", "small", train={"steps": 5, "pause": 0})
    world.project.commit()
    world.change(d="D")
    world.refresh()
    _, read = world.whole(world.last())
    assert [source for source, _ in read] == ["a", "b", "c", "d"]
    assert "steps: 5" in world.project.git("show", f"{world.last()}:params.yaml")
    world.project.git("merge", "--quiet", world.last())
    assert world.refresh().startswith("Unchanged")


def test_a_report_that_wants_no_refresh_says_how_to_want_one(built):
    built.set("reports", "proof", schedule=None)
    process = built.start("proof", command="refresh")
    _, err = process.communicate()
    assert process.returncode == 1
    assert err == "params.yaml: reports.proof.schedule: null; {cron: null, worse: 0.02} would let it be refreshed\n"
