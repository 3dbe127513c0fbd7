"""The texts that a finished bundle is measured on and calibrated with."""

from types import SimpleNamespace

from amalgam_edge.building import optimizing

HELD_OUT = 100


def test_calibration_takes_the_first_500_texts_that_are_not_held_out(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"text {k}" for k in range(700)), "utf-8")
    bundle = SimpleNamespace(manifest={"recipe": {"held_out": HELD_OUT}})
    measured_on, calibration = optimizing._texts(bundle, str(path), None)
    assert len(measured_on) == HELD_OUT
    others = [text for text in (f"text {k}" for k in range(700)) if text not in set(measured_on)]
    assert list(calibration) == others[:500]
