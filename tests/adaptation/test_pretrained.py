"""Test loading models: from a folder, and one clear line for each thing that can be wrong with a folder or the hub."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

from models import tiny_model, tokens
from provenlm.core.errors import CheckpointError
from provenlm.domains.grids.evaluate.adaptation.config import AdapterConfig
from provenlm.domains.grids.evaluate.adaptation.memory_estimate import LLAMA_3_2_1B, count_fine_tuning_memory
from provenlm.domains.grids.evaluate.adaptation.pretrained import load_pretrained


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    tiny_model("llama").save_pretrained(path)
    return path


def load_error(source: object, **options: object) -> str:
    """Return the message of a load that fails, which is one line."""
    with pytest.raises(CheckpointError) as error:
        load_pretrained(str(source), **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_gives_the_model_that_was_saved(folder):
    model, tokenizer = load_pretrained(str(folder))
    assert torch.equal(model(tokens()).logits, tiny_model("llama")(tokens()).logits)
    assert tokenizer is None and not model.training
    assert load_pretrained(str(folder), dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_a_missing_folder_and_an_empty_one_are_named(tmp_path):
    assert (
        load_error(tmp_path / "missing")
        == f"{tmp_path}/missing: must be an existing folder, or the name of a model on the hub such as OWNER/NAME"
    )
    assert load_error("models/base/missing").startswith("models/base/missing: must be an existing folder")
    assert load_error(tmp_path).endswith("must be a folder with config.json and *.safetensors, config.json is missing")


def test_a_folder_without_all_weights_is_refused(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "safetensors" in load_error(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert load_error(tmp_path).endswith("model.layers.2.input_layernorm.weight is missing")
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    assert str(tmp_path) in load_error(tmp_path)


def test_a_model_that_sees_later_tokens_is_refused(tmp_path):
    """Transformers loads BERT as a causal model with no more than a warning."""
    import transformers

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 16}
    sizes["initializer_range"] = 0.5  # with 0.02 a later token changes almost nothing
    torch.manual_seed(0)
    transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).save_pretrained(tmp_path)
    message = load_error(tmp_path)
    assert "must be a causal language model" in message or "must hold all weights" in message


def test_a_model_of_another_kind_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "distilbert"}')
    assert "must be a causal language model" in load_error(tmp_path)


@contextmanager
def fake_hub(monkeypatch, tmp_path, status: int, error_code: str) -> Iterator[None]:
    """Serve a hub that answers every request with an error."""
    from huggingface_hub import constants

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", error_code)
            self.send_header("X-Error-Message", "no access")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "error_code", "message"),
    [
        (403, "GatedRepo", "owner/name: is gated: accept its licence at https://huggingface.co/owner/name, then set HF_TOKEN"),
        (401, "GatedRepo", "owner/name: is gated: accept its licence"),
        (404, "RepoNotFound", "owner/name: must be a model on the hub; if it is private, set HF_TOKEN"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(monkeypatch, tmp_path, status, error_code, message):
    with fake_hub(monkeypatch, tmp_path, status, error_code):
        assert load_error("owner/name", allow_download=True).startswith(message)


def test_without_downloads_only_the_cache_is_asked(monkeypatch):
    lookups: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: lookups.append(arguments))
    expected = "owner/name: is not in the local cache, and downloads are not allowed here; give the folder of a model instead"
    assert load_error("owner/name") == expected
    assert lookups == []


def test_without_a_network_the_message_says_so(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_error("owner/name", allow_download=True).startswith(
        "owner/name: is not in the local cache, and the hub cannot be reached"
    )


@pytest.fixture(scope="module")
def llama_1b():
    """Count Llama-3.2-1B with adapters of rank 64 on a lesson of 4,096 tokens, 512 of them the answer."""
    return count_fine_tuning_memory(
        LLAMA_3_2_1B, AdapterConfig(rank=64), batch_size=1, seq_len=4096, num_targets=512, recompute=True
    )


def test_llama_1b_has_the_published_number_of_parameters(llama_1b):
    """1.24 billion. Rank 64 on four projections of attention and three of the feed-forward layer, by hand."""
    sizes = [(2048, 2048), (2048, 512), (2048, 512), (2048, 2048), (2048, 8192), (2048, 8192), (8192, 2048)]
    assert llama_1b.num_params == 1_235_814_400
    assert llama_1b.num_trainable_params == 16 * 64 * sum(a + b for a, b in sizes) == 45_088_768
    assert llama_1b.num_adapted_layers == 16 * 7


def test_llama_1b_with_an_adapter_needs_less_than_ten_gigabytes(llama_1b):
    """Weights in bfloat16, adapters, gradients and moments in float32; a block keeps its input of 4,096 × 2,048."""
    assert llama_1b.weight_bytes == 2 * 1_235_814_400 + 4 * 45_088_768
    assert (llama_1b.gradient_bytes, llama_1b.optimizer_bytes) == (4 * 45_088_768, 8 * 45_088_768)
    assert 16 * 4096 * 2048 * 2 < llama_1b.saved_bytes < 1e9
    assert llama_1b.total_bytes < 4e9


def test_full_fine_tuning_of_a_model_counts_every_weight():
    """Recomputing activations saves most of the tensors of the forward pass."""
    tiny = {
        **LLAMA_3_2_1B,
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "vocab_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
    }
    counts = [
        count_fine_tuning_memory(tiny, AdapterConfig(method="full"), 1, 256, 4, torch.float32, recompute=recompute)
        for recompute in (False, True)
    ]
    assert counts[0].num_trainable_params == counts[0].num_params and counts[0].num_adapted_layers == 0
    assert counts[1].saved_bytes < counts[0].saved_bytes / 4
    assert counts[0].weight_bytes == counts[0].gradient_bytes == 4 * counts[0].num_params
