"""Built-in tasks and tasks of a user's own data: what they hold, that they learn, and what they refuse."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from autotune import UsageError
from evaluators.federated.tasks import TASKS, Task, load
from evaluators.federated.tasks.corpus import own_text, standard_library, symbols
from evaluators.federated.tasks.data import Data, held_out, standardised, text_data


def trained(task: Task, steps: int, batch: int, rate: float) -> torch.Tensor:
    """Weights after plain SGD on all data together."""
    generator = torch.Generator().manual_seed(0)
    weights, data = task.learner.initial(0)[None], task.data
    for _ in range(steps):
        rows = torch.randint(0, len(data.x), (1, batch), generator=generator)
        share = torch.full((1, batch), 1.0 / batch)
        weights = weights - rate * task.learner.gradients(weights, data.x[rows], data.y[rows], share)[1]
    return weights[0]


def accuracy(task: Task, weights: torch.Tensor) -> float:
    return task.learner.evaluate(weights, task.data.test_x, task.data.test_y).accuracy


def test_digits_are_split_standardised_and_learned() -> None:
    task = load("digits", hidden=32)
    data = task.data
    assert (len(data.x), len(data.test_x)) == (1437, 360)
    assert task.learner.tensors.size == 64 * 32 + 32 + 32 * 10 + 10
    changing = data.x.std(0) > 0
    torch.testing.assert_close(data.x.mean(0), torch.zeros(64), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.x[:, changing].std(0, correction=0), torch.ones(int(changing.sum())))
    assert not data.test_x.mean(0).allclose(torch.zeros(64), atol=1e-3)  # standardised by the others
    assert torch.equal(data.groups, data.y)
    weights = trained(task, 150, 32, task.learning_rate)
    assert task.target_accuracy is not None
    assert accuracy(task, weights) > task.target_accuracy > 0.9


def test_the_split_of_digits_follows_its_seed() -> None:
    assert load("digits").data.sha256 == load("digits", hidden=(16, 16)).data.sha256
    assert load("digits").data.sha256 != load("digits", seed=1).data.sha256


def test_the_standard_library_gives_even_families_and_is_learned() -> None:
    task = load("text", megabytes=0.2)
    data = task.data
    assert data.x.shape[1:] == data.y.shape[1:] == (32,)
    assert torch.equal(data.x[:, 1:], data.y[:, :-1])
    assert int(data.x.min()) >= 0
    assert int(data.x.max()) < 128
    counts = torch.bincount(data.groups)
    assert 10 <= len(counts) <= 12 and len(counts) == len(data.group_names)
    assert counts.min() > 0.8 * counts.max()
    assert 20_000 <= task.learner.tensors.size <= 40_000
    before = accuracy(task, task.learner.initial(0))
    always_space = float((data.test_y == 32).float().mean())
    after = accuracy(task, trained(task, 60, 32, task.learning_rate))
    assert after > max(before, always_space) + 0.03


def test_the_same_text_has_the_same_digest() -> None:
    digest = load("text", megabytes=0.1).data.sha256
    assert load("text", megabytes=0.1, layers=2).data.sha256 == digest
    assert load("text", megabytes=0.11).data.sha256 != digest


def test_a_library_without_source_is_told(tmp_path: Path) -> None:
    (tmp_path / "email").mkdir()
    (tmp_path / "email" / "b.py").write_text("B")
    (tmp_path / "email" / "a.py").write_text("A")
    (tmp_path / "email" / "test").mkdir()
    (tmp_path / "email" / "test" / "c.py").write_text("C")
    (tmp_path / "unlisted.py").write_text("D")
    assert standard_library(tmp_path) == {"mail": b"A\nB"}
    with pytest.raises(UsageError, match="holds no source"):
        standard_library(tmp_path / "email")


def test_symbols_and_windows_by_hand() -> None:
    assert symbols(b"a \n\t~\x00\xff").tolist() == [97, 32, 10, 9, 126, 127, 127]
    parts = {"long": np.arange(100, 190), "short": np.arange(400)[:61]}
    data = text_data(parts, context=2, symbols=100, tested=10, seed=0)
    every = torch.cat((data.x, data.test_x))
    assert len(every) == 50  # 30 windows of the short part would be more than its half: both give 25
    assert len(data.test_x) == 10
    assert torch.equal(torch.cat((data.y, data.test_y)), every + torch.tensor([1, 1]))
    assert sorted(every[every[:, 0] < 100][:, 0].tolist()) == [2 * (i * 30 // 25) for i in range(25)]
    assert torch.equal(data.groups, (data.x[:, 0] < 100).long())


def test_a_feature_that_never_changes_is_zero() -> None:
    x, test_x = standardised(torch.full((7, 1), 0.1), torch.full((2, 1), 0.1))
    assert x.abs().max() < 1e-6 and test_x.abs().max() < 1e-6


def test_held_out_samples_are_not_trained_on() -> None:
    train, test = held_out(50, 10, seed=0)
    assert sorted(torch.cat((train, test)).tolist()) == list(range(50))
    assert len(test) == 10


def test_data_of_unlike_lengths_is_refused() -> None:
    some = torch.zeros(30)
    with pytest.raises(UsageError, match="30 samples, 29 labels and 30 groups"):
        Data(some, some[:29], some, some, some)
    with pytest.raises(UsageError, match="training data has 5 samples; give at least 20"):
        Data(some[:5], some[:5], some, some, some[:5])


def arrays() -> dict[str, Any]:
    """A small task: the label is whether the first feature is above the second."""
    generator = np.random.default_rng(0)
    x, test_x = generator.normal(5.0, 3.0, (300, 2, 2)), generator.normal(5.0, 3.0, (80, 2, 2))
    return {
        "x_train": x, "y_train": (x[:, 0, 0] > x[:, 0, 1]).astype(np.int32),
        "x_test": test_x, "y_test": (test_x[:, 0, 0] > test_x[:, 0, 1]).astype(np.int32),
    }  # fmt: skip


def test_own_samples_are_learned(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **arrays(), groups=np.arange(300) % 7)
    task = load("table", path=tmp_path / "own.npz", hidden=(8, 4))
    assert task.learner.tensors.shapes[0] == (8, 4)
    assert task.data.groups.max() == 6
    assert task.target_accuracy is None
    assert accuracy(task, trained(task, 200, 32, 0.5)) > 0.9
    np.savez(tmp_path / "own.npz", **arrays())
    assert torch.equal(load("table", path=tmp_path / "own.npz").data.groups, task.data.y)


def changed(**arrays_of: Any) -> dict[str, Any]:
    return {**arrays(), **arrays_of}


def with_nan() -> Any:
    x = arrays()["x_train"]
    x[17, 0, 0] = np.nan
    return x


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({k: v for k, v in arrays().items() if k != "y_test"}, "lacks y_test .it has: x_train, y_train, x_test."),
        (changed(y_train=arrays()["y_train"][:-1]), "y_train has 299 entries and x_train has 300 samples"),
        (changed(x_train=with_nan()), "x_train has NaN or infinity in sample 17"),
        (changed(y_train=arrays()["y_train"] - 1), "y_train has -1; number the classes from 0 on"),
        (changed(y_train=arrays()["y_train"] * 1.0), "y_train is of type float64"),
        (changed(x_train=np.ones((300, 2, 2), dtype=np.int64)), "x_train is of type int64"),
        (changed(x_test=np.ones((80, 3))), r"x_test has samples of shape \(3,\) and x_train of \(2, 2\)"),
        (changed(x_train=np.ones((300, 0)), x_test=np.ones((80, 0))), "at least one feature"),
        (changed(y_test=arrays()["y_test"] + 3), "y_test has label 4, which y_train lacks"),
        (changed(y_train=np.zeros(300, dtype=int)), "the one label 0"),
        (changed(y_train=arrays()["y_train"] + 10**6), "y_train goes up to 1000001"),
        (changed(groups=np.zeros(10, dtype=int)), "groups has 10 entries"),
        ({name: values[:9] for name, values in arrays().items()}, "training data has 9 samples; give at least 20"),
        (changed(x_train=np.array([object()])), "no .npz file of plain arrays"),
    ],
)
def test_own_samples_that_cannot_be_used(wrong: dict[str, Any], told: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", **wrong)
    with pytest.raises(UsageError, match=told):
        load("table", path=tmp_path / "own.npz")


def test_a_file_that_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "own.npz").write_bytes(b"no zip file")
    with pytest.raises(UsageError, match=r"no \.npz file"):
        load("table", path=tmp_path / "own.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(UsageError, match=r"no \.npz file"):
        load("table", path=tmp_path / "one.npy")
    with pytest.raises(UsageError, match="does not exist"):
        load("table", path=tmp_path / "none.npz")


def test_own_text_of_one_file_and_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_bytes(bytes(range(65, 91)) * 100)
    slices = own_text(tmp_path / "one.txt")
    assert len(slices) == 10 and b"".join(slices.values()) == (tmp_path / "one.txt").read_bytes()
    for number in range(14):
        (tmp_path / f"{number:02}").mkdir()
        (tmp_path / f"{number:02}" / "a.txt").write_text("x" * (number + 1))
        (tmp_path / f"{number:02}" / ".hidden").write_text("no")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    sources = own_text(tmp_path)
    assert len(sources) == 12 and "picture.png" not in sources
    assert sources["13"] == b"x" * 14
    assert sources["others"].replace(b"\n", b"") == b"x" * (1 + 2 + 3 + 4)
    with pytest.raises(UsageError, match="does not exist"):
        own_text(tmp_path / "none")
    with pytest.raises(UsageError, match="holds no text"):
        own_text(tmp_path / "picture.png")


def test_the_byte_transformer_learns_own_text(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("the quick brown fox jumps over the lazy dog. " * 200)
    task = load("text-files", path=tmp_path / "own.txt", context=16, width=16)
    assert accuracy(task, trained(task, 100, 16, 1.0)) > 0.6
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(UsageError, match=r"has 9 bytes; give at least \d+ for contexts of 16"):
        load("text-files", path=tmp_path / "short.txt", context=16)


def test_unknown_tasks_and_options_are_named() -> None:
    with pytest.raises(UsageError, match=r"task 'digit' is unknown \(did you mean 'digits'\?\)"):
        load("digit")
    with pytest.raises(
        UsageError, match=r"option 'hiden' is unknown \(did you mean 'hidden'\?\); known are: hidden, seed"
    ):
        load("digits", hiden=3)
    with pytest.raises(UsageError, match="task table: option 'path' is missing"):
        load("table")
    with pytest.raises(UsageError, match="width is 10, which does not give 3 heads"):
        load("text", width=10, heads=3, megabytes=0.1)
    for wrong in (0, 1.5, True):
        with pytest.raises(UsageError, match="hidden is"):
            load("digits", hidden=[wrong])
    assert all(kind.summary for kind in TASKS.values())


@pytest.fixture(scope="module")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("pack my box with five dozen liquor jugs. " * 300)
    return path


def checkpoint(folder: Path, vocabulary: int, tokenizer: bool) -> Path:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("peft")
    from tests.moe_cache_recording.checkpoints import save_tokenizer

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    if tokenizer:
        save_tokenizer(folder)
    return folder


def test_adapters_of_a_checkpoint_are_all_that_is_trained(tmp_path: Path, text_file: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = checkpoint(tmp_path, 300, tokenizer=True)
    task = load("hugging-face", model=folder, path=text_file, rank=2, context=16, tokens=4000)
    learner, data = task.learner, task.data
    # Of each layer: q and o (16 x 16), k and v (16 x 8), gate, up and down (16 x 32); rank times both sides of each.
    assert learner.tensors.size == 2 * 2 * (2 * 32 + 2 * 24 + 3 * 48)
    assert all("lora_" in name for name in learner.tensors.names)
    start = learner.initial(5)
    assert torch.equal(start, learner.initial(5)) and not torch.equal(start, learner.initial(6))
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        torch.testing.assert_close(learner.predict(start, data.test_x[:3]), base(data.test_x[:3]).logits)
    after = trained(task, 30, 4, 5.0)
    assert (
        learner.evaluate(after, data.test_x, data.test_y).loss < learner.evaluate(start, data.test_x, data.test_y).loss
    )
    # The tokenizer's ids are unlike bytes: it gives "!" 0 and a space something else.
    assert not torch.isin(data.x, torch.tensor(list(b" "))).any()


def test_a_checkpoint_without_a_tokenizer_reads_bytes(tmp_path: Path, text_file: Path) -> None:
    folder = checkpoint(tmp_path / "256", 256, tokenizer=False)
    task = load("hugging-face", model=folder, path=text_file, rank=1, context=16, tokens=2000)
    assert set(task.data.x.flatten().tolist()) <= set(text_file.read_bytes())
    with pytest.raises(UsageError, match=r"context is 65, and model .* reads 64 tokens"):
        load("hugging-face", model=folder, path=text_file, context=65)
    with pytest.raises(UsageError, match="gives 100 tokens; give at least 960"):
        load("hugging-face", model=folder, path=text_file, context=16, tokens=100)
    small = checkpoint(tmp_path / "100", 100, tokenizer=False)
    with pytest.raises(UsageError, match="with 100 tokens it cannot read bytes"):
        load("hugging-face", model=small, path=text_file)


def test_missing_packages_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UsageError, match=r'pip install "autotune\[hf\]"'):
        load("hugging-face", model=tmp_path, path=tmp_path)
