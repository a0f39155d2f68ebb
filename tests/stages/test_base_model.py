"""Test `base_model` of a recipe: the recipe or folder whose weights a training starts from."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from dvc.repo import Repo
from in_process import run_stage, toy_plugins
from ruamel.yaml import YAML
from safetensors.numpy import load_file, save_file

from provenlm.core import hashing, registry
from provenlm.core.audit import read_audit
from provenlm.core.config import load_params
from provenlm.core.errors import ConfigError, DataError
from provenlm.core.paths import ProjectPaths
from provenlm.data import token_dataset
from provenlm.models.common.spec import ModelSpec, resolve_model
from provenlm.tokenizers.characters import CharacterTokenizer
from provenlm.training.base_model_files import (
    TRAINING_RECORDS_FILE,
    check_base_tokenizer,
    read_training_records,
    training_records_to_parquet,
)
from provenlm.training.build_model import find_base_model, init_model
from provenlm.training.checkpoints.checkpoint import ModelMetadata
from provenlm.training.config import TrainConfig
from stages import train
from stages.runner import StageContext

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {
    "embed_tokens.weight": (20, 8),
    "embed_positions.weight": (32, 8),
    "to_latent.weight": (4, 8),
    "from_latent.weight": (8, 4),
    "output.weight": (20, 8),
    "prior_mean_Z": (4,),
    "prior_log_scale_Z": (4,),
}
AUTOENCODER = {"arch": "toy_autoencoder", "hidden_size": 8, "latent_size": 4, "max_position_embeddings": 32}
TRAIN = {
    "device": "cpu",
    "threads": 1,
    "seq_len": 12,
    "global_batch_size": 8,
    "max_steps": 1,
    "optimizer": {group: {"lr": 1e-6} for group in ("embedding", "matrix", "default")},  # the step changes no weight by 1e-4
    "lr_schedule": {"warmup_steps": 0, "stable_steps": 1},
    "spike_guard": None,
}


@pytest.fixture
def paths(tmp_path) -> ProjectPaths:
    """Write tokens, a base model, recipes of the toy autoencoder, which can load it, and one of a decoder, which cannot."""
    paths = ProjectPaths(tmp_path)
    corpus = {"domain": "strings", "scrape": {}, "filter": {}, "dedupe": {}, "tokenize": {}}
    recipe = {"corpus": "toy", "domain": "strings", "base_model": "base/start", "train": TRAIN, "validate": {}}
    recipes = {
        "autoencoder": {**recipe, "model": AUTOENCODER},
        "tuned": {**recipe, "model": AUTOENCODER, "base_model": "autoencoder"},
        "decoder": {**recipe, "model": {"arch": "moe"}},
        "scratch": {**recipe, "model": AUTOENCODER, "base_model": "none"},
    }
    with paths.params_yaml.open("w") as file:
        YAML().dump({"corpora": {"toy": corpus}, "recipes": recipes, "reports": {}}, file)
    generator = np.random.default_rng(1)
    folder = paths.corpus_dir("toy", "tokens")
    documents = [
        token_dataset.TokenizedDocument(str(i), str(i), 8, generator.integers(4, 20, 8).astype(np.uint32)) for i in range(30)
    ]
    CharacterTokenizer("abcdefghijklmnopqrs", add_eos=False).save(folder / "tokenizer")
    token_dataset.write_token_dataset(folder, documents, 20, {"pad": 0, "unk": 1, "bos": 2, "eos": 3}, 0.2)
    paths.base_model_dir("base/start").mkdir(parents=True)
    weights = {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    save_file(weights, paths.base_model_dir("base/start") / "model.safetensors")
    return paths


def refusal(paths: ProjectPaths, recipe: str) -> str:
    """Return the error with which the train stage refuses a recipe."""
    with pytest.raises(ConfigError) as error:
        train.prepare(StageContext("train", "recipes", recipe, paths, load_params(paths.params_yaml)))
    return str(error.value).removeprefix(f"{paths.root.as_posix()}/")


def test_training_starts_from_the_base_model_and_records_its_digest(paths):
    with toy_plugins():
        result = run_stage(paths.root, "train", "autoencoder")
    assert result.returncode == 0, result.stdout + result.stderr
    base, trained = (
        load_file(folder / "model.safetensors") for folder in (paths.base_model_dir("base/start"), paths.model_dir("autoencoder"))
    )
    assert base.keys() == trained.keys() and all(np.allclose(base[name], trained[name], atol=1e-4) for name in base)
    inputs = read_audit(paths.audit_json("autoencoder", "train")).provenance["inputs"]
    assert ["models/base/start", hashing.sha256_path(paths.base_model_dir("base/start"))] in inputs


def test_a_model_that_cannot_load_a_base_model_is_refused(paths):
    reason = "must be none, because the model moe cannot start from one, got base/start"
    assert refusal(paths, "decoder") == f"params.yaml: recipes.decoder.base_model: {reason}"


def test_a_missing_base_model_is_refused(paths):
    shutil.rmtree(paths.base_model_dir("base/start"))
    (paths.base_model_dir("base") / "other").mkdir()
    reason = "must be a folder below models/base, got base/start, which does not exist; there: base/other"
    assert refusal(paths, "decoder") == f"params.yaml: recipes.decoder.base_model: {reason}"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "deserializ"),
        (lambda path: save_file({name: np.zeros((3, 3), np.float32) for name in SHAPES}, path), "size mismatch for"),
    ],
)
def test_weights_that_do_not_fit_are_refused(paths, damage, reason):
    damage(paths.base_model_dir("base/start") / "model.safetensors")
    with toy_plugins():
        spec = registry.load_model("toy_autoencoder", ModelSpec)
    with pytest.raises(DataError, match=r"models/base/start: must hold the weights of a model of the same shape, got: ") as error:
        init_model(
            spec,
            spec.config_type(**{key: value for key, value in AUTOENCODER.items() if key != "arch"}),
            20,
            1,
            paths.base_model_dir("base/start"),
        )
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_dvc_trains_the_recipe_of_the_base_model_first(paths, monkeypatch):
    monkeypatch.chdir(paths.root)
    shutil.copy(ROOT / "dvc.yaml", paths.root)
    with Repo.init(no_scm=True) as repo:
        stages = {name: repo.stage.collect(f"train@{name}")[0] for name in ("autoencoder", "tuned", "scratch")}
        upstream = {stage.addressing for stage in repo.stage.collect("train@tuned", with_deps=True)}
    deps = {name: {dependency.def_path for dependency in stage.deps} for name, stage in stages.items()}
    assert "models/base/start" in deps["autoencoder"] and "models/none" in deps["scratch"]
    assert "models/autoencoder" in deps["tuned"] and {"train@autoencoder", "tokenize@toy"} <= upstream


@pytest.fixture
def trained(paths) -> ProjectPaths:
    """Write the model of the recipe `autoencoder` as its training does, trained on the records x and y."""
    model_dir = paths.model_dir("autoencoder")
    section = {name: value for name, value in AUTOENCODER.items() if name != "arch"}
    tokenizer = hashing.sha256_path(paths.corpus_dir("toy", "tokens") / "tokenizer")
    metadata = ModelMetadata("toy_autoencoder", section, 20, 12, tokenizer)
    shutil.copytree(paths.base_model_dir("base/start"), model_dir)
    (model_dir / "model.json").write_bytes(metadata.to_json())
    (model_dir / TRAINING_RECORDS_FILE).write_bytes(training_records_to_parquet(["x", "y"], None))
    return paths


def test_a_recipe_is_fine_tuned_from_the_model_of_another(trained):
    with toy_plugins():
        result = run_stage(trained.root, "train", "tuned")
    assert result.returncode == 0, result.stdout + result.stderr
    base, tuned = (trained.model_dir(name) for name in ("autoencoder", "tuned"))
    weights, tuned_weights = (load_file(folder / "model.safetensors") for folder in (base, tuned))
    assert all(np.allclose(weights[name], tuned_weights[name], atol=1e-4) for name in weights)
    inputs = read_audit(trained.audit_json("tuned", "train")).provenance["inputs"]
    assert ["models/autoencoder", hashing.sha256_path(base)] in inputs
    own = token_dataset.load_token_dataset(trained.corpus_dir("toy", "tokens")).train.record_ids
    assert read_training_records(tuned) == {"x", "y", *own}
    assert json.loads((tuned / "model.json").read_bytes())["tokenizer_sha256"] == hashing.sha256_path(
        trained.corpus_dir("toy", "tokens") / "tokenizer"
    )


def test_another_vocabulary_of_the_same_size_is_refused(trained):
    folder = trained.corpus_dir("toy", "tokens") / "tokenizer"
    check_base_tokenizer(trained.model_dir("autoencoder"), folder, trained.root)
    CharacterTokenizer("bacdefghijklmnopqrs", add_eos=False).save(folder)
    with toy_plugins():
        result = run_stage(trained.root, "train", "tuned")
    message = "train@tuned: data/toy/tokens/tokenizer: must be the tokenizer of the base model models/autoencoder, because "
    assert result.returncode == 1 and result.stderr.splitlines()[-1].startswith(message), result.stderr


def test_a_base_model_of_an_unknown_tokenizer_is_refused(trained):
    model_dir, folder = trained.model_dir("autoencoder"), trained.corpus_dir("toy", "tokens") / "tokenizer"
    (model_dir / "model.json").write_bytes(ModelMetadata("toy_autoencoder", {}, 20, 12).to_json())
    with pytest.raises(DataError, match="digest unknown, got "):
        check_base_tokenizer(model_dir, folder, trained.root)


def test_weights_from_elsewhere_have_no_known_tokenizer_and_records(paths):
    check_base_tokenizer(paths.base_model_dir("base/start"), paths.corpus_dir("toy", "tokens") / "tokenizer", paths.root)
    assert read_training_records(paths.base_model_dir("base/start")) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden_size": 16}, "embed_positions.weight must be (32, 8), got (32, 16)"),
        ({"arch": "music_transformer"}, "arch must be toy_autoencoder, got music_transformer"),
    ],
    ids=["size", "arch"],
)
def test_a_base_recipe_of_another_shape_is_refused_before_it_is_trained(paths, changes, reason):
    model = {**AUTOENCODER, **changes} if "arch" not in changes else changes
    params = load_params(paths.params_yaml)
    with toy_plugins(), pytest.raises(ConfigError) as error:
        find_base_model(params, "tuned", resolve_model(model, "model"), paths)
    message = f"params.yaml: recipes.tuned.model: must have the shape of its base model autoencoder: {reason}"
    assert str(error.value) == message


def test_checkpoints_of_another_base_model_are_not_resumed(paths):
    context = StageContext("train", "recipes", "autoencoder", paths, load_params(paths.params_yaml))
    config = context.parse_section("train", TrainConfig)
    base_model_dir = paths.base_model_dir("base/start")
    prepared = SimpleNamespace(tokens_dir=paths.corpus_dir("toy", "tokens"), base_model_dir=base_model_dir)
    key = train.checkpoint_key(context, config, prepared)
    assert train.checkpoint_key(context, config, prepared) == key
    save_file({"prior_mean_Z": np.ones(4, np.float32)}, base_model_dir / "model.safetensors")
    assert train.checkpoint_key(context, config, prepared) != key
