"""Test `provenlm generate` on music: MIDI, pictures and audio as output, MIDI files as prompts."""

import json
from pathlib import Path

import pytest
import torch

from provenlm.core.paths import ProjectPaths
from provenlm.domains.music.content.score import note_table, read_score, write_score
from provenlm.domains.music.evaluate.render.wav import decode_pcm16
from provenlm.domains.music.scrape.procedural import compose_piece
from provenlm.domains.music.tokenize.midi_tokenizer import MidiTokenizer, MidiTokenizerConfig
from provenlm.models.gpt.spec import SPEC as GPT
from provenlm.models.sequence_vae.spec import SPEC as VAE
from provenlm.training.checkpoints import checkpoint

TOKENIZER = MidiTokenizer(MidiTokenizerConfig())
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
MODELS = {
    "gpt": (GPT, {**SIZES, "num_hidden_layers": 1, "num_key_value_heads": 2}),
    "sequence_vae": (VAE, {**SIZES, "num_encoder_layers": 1, "num_decoder_layers": 1, "latent_size": 4}),
}
PROMPT = "Bar_None TimeSig_4/4 Position_0 Pitch_60 Duration_1.0.12"
SHORT = ("--max-new-tokens", "12")


def note_values(path: Path) -> list[tuple[int, int]]:
    """Return onset and pitch of each note of a MIDI file."""
    notes = note_table(read_score(path.read_bytes()), 12)
    return list(zip(notes.onsets.tolist(), notes.pitches.tolist(), strict=True))


def make_project(root: Path, arch: str) -> Path:
    """Write a random model of music below `root`."""
    torch.set_num_threads(1)
    paths = ProjectPaths(root)
    spec, section = MODELS[arch]
    recipe = {
        "corpus": "c",
        "domain": "music",
        "base_model": "none",
        "model": {"arch": arch, **section},
        "train": {},
        "validate": {},
    }
    corpus = {"domain": "music", "scrape": {}, "filter": {}, "dedupe": {}, "tokenize": {}}
    paths.params_yaml.write_text(json.dumps({"corpora": {"c": corpus}, "recipes": {"r": recipe}, "reports": {}}))
    TOKENIZER.save(paths.corpus_dir("c", "tokens") / "tokenizer")
    torch.manual_seed(1)
    model = spec.build(spec.config_type(**section), TOKENIZER.vocab_size)
    metadata = checkpoint.ModelMetadata(arch, section, TOKENIZER.vocab_size, 512)
    state = checkpoint.Checkpoint({"model": model.state_dict()}, {})
    checkpoint.save_checkpoint(paths.model_dir("r"), state, {"model.json": metadata.to_json()})
    return root


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_project(tmp_path, "gpt")


@pytest.fixture
def vae_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_project(tmp_path, "sequence_vae")


def test_a_prompt_of_token_names_is_continued_in_names(project, run_cli):
    status, output, _ = run_cli("generate", "r", "--prompt", PROMPT, *SHORT)
    assert status == 0 and output.startswith(f"{PROMPT} ")
    assert TOKENIZER.encode_prompt(output.strip())[: len(PROMPT.split()) + 1] == TOKENIZER.encode_prompt(PROMPT)


def test_midi_picture_and_audio_are_written_by_their_suffix(project, run_cli):
    files = ("--output", "out/x.mid", "--output", "x.wav", "--output", "x.svg")
    status, output, errors = run_cli("generate", "r", "--prompt", PROMPT, *SHORT, *files)
    assert (status, output) == (0, "") and "out/x.mid: " in errors
    assert (0, 60) in note_values(project / "out" / "x.mid")
    samples, rate = decode_pcm16((project / "x.wav").read_bytes())
    assert rate == 22050 and abs(samples).max() > 0.1
    assert (project / "x.svg").read_bytes().startswith(b"<svg")


def test_a_midi_file_is_a_prompt(project, run_cli):
    content = write_score(compose_piece(1))
    (project / "p.mid").write_bytes(content)
    status, _, _ = run_cli("generate", "r", "--prompt-file", "p.mid", *SHORT, "--output", "x.mid")
    expected = note_values(project / "p.mid")
    assert status == 0 and set(expected) <= set(note_values(project / "x.mid"))


def test_a_long_prompt_can_be_cut(project, run_cli):
    (project / "p.mid").write_bytes(write_score(compose_piece(1)))
    _, output, _ = run_cli("generate", "r", "--prompt-file", "p.mid", "--max-prompt-tokens", "6", *SHORT)
    assert len(output.split()) <= 5 + 12 and output.startswith("Bar_None TimeSig_")


def test_without_a_prompt_a_piece_begins_by_itself(project, run_cli):
    outputs = [run_cli("generate", "r", *SHORT, "--seed", seed)[1] for seed in ("1", "1", "2")]
    assert outputs[0] == outputs[1] != outputs[2]
    assert set(outputs[0].split()) <= set(TOKENIZER.tokens.values())


def test_several_prompts_give_numbered_files(project, run_cli):
    prompts = ("--prompt", PROMPT, "--prompt", PROMPT.replace("60", "64"))
    assert run_cli("generate", "r", *prompts, *SHORT, "--output", "x.mid")[0] == 0
    assert all((0, pitch) in note_values(project / f"x-{number}.mid") for number, pitch in ((1, 60), (2, 64)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--output", "x.mp3"), "--output: the suffix must be one of .mid, .svg, .wav, got 'x.mp3'"),
        (("--prompt-file", "nowhere.mid"), "--prompt-file: must be a readable file, got 'nowhere.mid': No such file"),
        (("--prompt-file", "params.yaml"), "content must be a MIDI file, got"),
        (("--prompt", "Pitch_999"), "prompt must be a MIDI file or tokens such as Bar_None, got 'Pitch_999'"),
        (("--max-prompt-tokens", "0"), "--max-prompt-tokens: must be at least 1, got 0"),
    ],
)
def test_a_wrong_option_is_a_one_line_error(project, run_cli, words, message):
    status, output, errors = run_cli("generate", "r", *words)
    assert (status, output) == (1, "")
    assert message in errors and errors.count("\n") == 1


def test_a_vae_generates_from_its_prior(vae_project, run_cli):
    words = ("generate", "r", "--num-latents", "3", "--max-new-tokens", "40")
    outputs = [run_cli(*words, "--seed", seed) for seed in ("1", "1", "2")]
    assert outputs[0][0] == 0 and outputs[0][1] == outputs[1][1] != outputs[2][1]
    tokens = outputs[0][1].split()
    assert tokens and set(tokens) <= set(TOKENIZER.tokens.values()) and tokens.count("Bar_None") <= 3
    assert run_cli(*words, "--output", "x.mid", "--output", "x.wav")[:2] == (0, "")
    assert (vae_project / "x.mid").read_bytes()[:4] == b"MThd" and (vae_project / "x.wav").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--prompt", PROMPT), "--prompt: must not be given for a model that generates from latents"),
        (("--num-latents", "0"), "--num-latents: must be at least 1, got 0"),
    ],
)
def test_an_option_that_a_vae_has_no_use_for_is_an_error(vae_project, run_cli, words, message):
    status, output, errors = run_cli("generate", "r", *words)
    assert (status, output) == (1, "") and message in errors and errors.count("\n") == 1
