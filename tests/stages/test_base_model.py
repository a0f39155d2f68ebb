"""Test `base_model` of a recipe: the folder whose weights a training starts from."""

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
from provenlm.models.common.spec import ModelSpec
from provenlm.tokenizers.characters import CharacterTokenizer
from provenlm.training.build_model import init_model
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
    """Write tokens, a base model and a recipe of the toy autoencoder, which can load it, and of a decoder, which cannot."""
    paths = ProjectPaths(tmp_path)
    corpus = {"domain": "strings", "scrape": {}, "filter": {}, "dedupe": {}, "tokenize": {}}
    recipe = {"corpus": "toy", "domain": "strings", "base_model": "start", "train": TRAIN, "validate": {}}
    recipes = {"autoencoder": {**recipe, "model": AUTOENCODER}, "decoder": {**recipe, "model": {"arch": "moe"}}}
    with paths.params_yaml.open("w") as file:
        YAML().dump({"corpora": {"toy": corpus}, "recipes": recipes, "reports": {}}, file)
    generator = np.random.default_rng(1)
    folder = paths.corpus_dir("toy", "tokens")
    documents = [
        token_dataset.TokenizedDocument(str(i), str(i), 8, generator.integers(4, 20, 8).astype(np.uint32)) for i in range(30)
    ]
    CharacterTokenizer("abcdefghijklmnopqrs", add_eos=False).save(folder / "tokenizer")
    token_dataset.write_token_dataset(folder, documents, 20, {"pad": 0, "unk": 1, "bos": 2, "eos": 3}, 0.2)
    paths.base_model_dir("start").mkdir(parents=True)
    weights = {name: generator.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    save_file(weights, paths.base_model_dir("start") / "model.safetensors")
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
        load_file(folder / "model.safetensors") for folder in (paths.base_model_dir("start"), paths.model_dir("autoencoder"))
    )
    assert base.keys() == trained.keys() and all(np.allclose(base[name], trained[name], atol=1e-4) for name in base)
    inputs = read_audit(paths.audit_json("autoencoder", "train")).provenance["inputs"]
    assert ["models/base/start", hashing.sha256_path(paths.base_model_dir("start"))] in inputs


def test_a_model_that_cannot_load_a_base_model_is_refused(paths):
    reason = "must be none, because the model moe cannot start from one, got start"
    assert refusal(paths, "decoder") == f"params.yaml: recipes.decoder.base_model: {reason}"


def test_a_missing_base_model_is_refused(paths):
    shutil.rmtree(paths.base_model_dir("start"))
    reason = "must be none or a folder below models/base, got models/base/start, which does not exist"
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
    damage(paths.base_model_dir("start") / "model.safetensors")
    with toy_plugins():
        spec = registry.load_model("toy_autoencoder", ModelSpec)
    with pytest.raises(DataError, match=r"models/base/start: must hold the weights of a model of the same shape, got: ") as error:
        init_model(
            spec,
            spec.config_type(**{key: value for key, value in AUTOENCODER.items() if key != "arch"}),
            20,
            1,
            paths.base_model_dir("start"),
        )
    assert reason in str(error.value) and "\n" not in str(error.value)


def test_dvc_depends_on_the_folder_of_the_base_model(paths, monkeypatch):
    monkeypatch.chdir(paths.root)
    shutil.copy(ROOT / "dvc.yaml", paths.root)
    with Repo.init(no_scm=True) as repo:
        (stage,) = repo.stage.collect("train@autoencoder")
    assert "models/base/start" in {dependency.def_path for dependency in stage.deps}


def test_checkpoints_of_another_base_model_are_not_resumed(paths):
    context = StageContext("train", "recipes", "autoencoder", paths, load_params(paths.params_yaml))
    config = context.parse_section("train", TrainConfig)
    base_model_dir = paths.base_model_dir("start")
    prepared = SimpleNamespace(tokens_dir=paths.corpus_dir("toy", "tokens"), base_model_dir=base_model_dir)
    key = train.checkpoint_key(context, config, prepared)
    assert train.checkpoint_key(context, config, prepared) == key
    save_file({"prior_mean_Z": np.ones(4, np.float32)}, base_model_dir / "model.safetensors")
    assert train.checkpoint_key(context, config, prepared) != key
