"""Bundles: whole or not there, and clear words for a broken one."""

import json
from pathlib import Path

import pytest
import torch

from recsys.bundle import BundleInfo, load_bundle, save_bundle
from recsys.errors import RecsysError
from recsys.models import TransformerConfig, build_model

pytestmark = pytest.mark.torch

CONFIG = TransformerConfig(num_items=12, max_length=6, dims=8, blocks=1, heads=1, dropout=0.5)
INFO = BundleInfo("2026-01-02", "abc", 12, 6, {"silver/items": 4}, "run", {"ndcg": 0.5})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    save_bundle(tmp_path / "bundle", build_model(CONFIG), INFO)
    return tmp_path / "bundle"


def test_a_bundle_returns(tmp_path: Path) -> None:
    model = build_model(CONFIG)
    save_bundle(tmp_path / "deep/bundle", model, INFO)
    loaded, info = load_bundle(tmp_path / "deep/bundle")
    assert info == INFO
    assert not loaded.training
    items = torch.randint(1, 13, (3, 6))
    assert torch.equal(loaded.encode(items), model.eval().encode(items))
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["bundle"]


def test_saving_again_replaces_it(bundle: Path) -> None:
    (bundle / "stray").touch()
    newer = build_model(CONFIG)
    save_bundle(bundle, newer, INFO)
    loaded, _ = load_bundle(bundle)
    assert torch.equal(loaded.item_vectors(), newer.item_vectors())
    assert sorted(path.name for path in bundle.iterdir()) == ["bundle.json", "weights.pt"]


def test_a_failed_save_leaves_the_old_one(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (bundle / "weights.pt").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        save_bundle(bundle, build_model(CONFIG), INFO)
    monkeypatch.undo()
    assert (bundle / "weights.pt").read_bytes() == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_missing_files_are_named(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(RecsysError, match=r"bundle\.json does not exist"):
        load_bundle(tmp_path / "nowhere")
    (bundle / "weights.pt").unlink()
    with pytest.raises(RecsysError, match=r"weights\.pt can't be read"):
        load_bundle(bundle)


def test_damaged_weights_are_noticed(bundle: Path) -> None:
    content = bytearray((bundle / "weights.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "weights.pt").write_bytes(content)
    with pytest.raises(RecsysError, match=r"weights\.pt is damaged") as caught:
        load_bundle(bundle)
    assert "train again" in caught.value.do


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 1}', "not json"])
def test_damaged_descriptions_are_noticed(bundle: Path, text: str) -> None:
    (bundle / "bundle.json").write_text(text)
    with pytest.raises(RecsysError, match=r"bundle\.json can't be read"):
        load_bundle(bundle)


def test_a_newer_format_is_refused(bundle: Path) -> None:
    content = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(RecsysError, match="has format 2"):
        load_bundle(bundle)


def test_weights_of_another_shape_are_refused(bundle: Path) -> None:
    content = json.loads((bundle / "bundle.json").read_text())
    content["model"]["num_items"] = 13
    (bundle / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(RecsysError, match="does not describe its weights"):
        load_bundle(bundle)
