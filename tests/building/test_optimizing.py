"""The texts that a finished bundle is measured on and calibrated with."""

from types import SimpleNamespace

from amalgam_edge.building import optimizing
from amalgam_edge.heads import Heads

HELD_OUT = 100


def test_calibration_takes_the_first_500_texts_that_are_not_held_out(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"text {k}" for k in range(700)), "utf-8")
    manifest = SimpleNamespace(recipe={"held_out": HELD_OUT})
    bundle = SimpleNamespace(manifest=manifest, labels=("a",), heads=Heads.of_labels("a"))
    texts = optimizing._read_texts(bundle, str(path), None, lambda message: None)
    assert len(texts.held_out) == HELD_OUT
    others = [text for text in (f"text {k}" for k in range(700)) if text not in set(texts.held_out)]
    assert list(texts.calibration) == others[:500]
