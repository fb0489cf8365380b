import pytest

from harness import model_files
from harness.cli import UserError


def test_an_export_that_fails_leaves_the_old_one(tmp_path):
    folder = tmp_path / "ir"
    with model_files.exporting(folder, {"source": "a"}) as new:
        (new / "x").write_text("first")
    with pytest.raises(UserError):
        with model_files.exporting(folder, {"source": "b"}) as new:
            raise UserError("no")
    assert (folder / "x").read_text() == "first" and model_files.read_stamp(folder) == {
        "source": "a"
    }
    assert [p.name for p in tmp_path.iterdir()] == ["ir"]


def test_a_folder_that_is_no_export_is_left_alone(tmp_path):
    (tmp_path / "precious").write_text("")
    with pytest.raises(UserError, match="not made by"):
        with model_files.exporting(tmp_path, {"source": "a"}):
            pass
    assert (tmp_path / "precious").exists()


def test_a_full_disk_is_one_line(tmp_path):
    with pytest.raises(UserError, match="No space left"):
        with model_files.exporting(tmp_path / "ir", {"source": "a"}):
            raise OSError(28, "No space left on device", "openvino_model_files.bin")


def test_a_model_is_known_by_its_weights(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.xml").write_text(f"names that differ: {name}")
        (tmp_path / f"{name}.bin").write_bytes(b"weights")
    described = [model_files.describe(n, tmp_path, [tmp_path / f"{n}.xml"], "fp32") for n in "ab"]
    assert described[0]["sha256"] == described[1]["sha256"] and described[0]["bytes"] == 7


def test_a_missing_half_is_named(tmp_path):
    (tmp_path / "m.xml").write_text("")
    with pytest.raises(UserError, match="m.bin.*run export"):
        model_files.check_ir(tmp_path / "m.xml", hint="run export.py")
