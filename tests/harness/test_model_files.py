import json
import signal
import subprocess
import sys
from pathlib import Path

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
    assert (folder / "x").read_text() == "first"
    assert model_files.read_stamp(folder) == {"source": "a", "files": {"x": 5}}
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


STAMP = {
    "source": "a.pt",
    "weight_format": "fp16",
    "source_sha256": "1",
    "packages": {"torch": "2"},
}
NAMED = {"is_named": True, "overwrite": False}


def export(folder, stamp=STAMP, weights=b"weights"):
    with model_files.exporting(folder, stamp) as new:
        (new / "m.xml").write_text("<net/>")
        (new / "m.bin").write_bytes(weights)
    return folder


def test_an_equal_export_is_not_made_again(tmp_path, capsys):
    folder = export(tmp_path / "ir")
    assert not model_files.is_to_be_made(folder, STAMP, **NAMED)
    assert "exported already" in capsys.readouterr().out
    assert model_files.is_to_be_made(folder, STAMP, is_named=True, overwrite=True)
    assert model_files.is_to_be_made(folder, STAMP, **NAMED, is_known=False)
    assert model_files.is_to_be_made(tmp_path / "other", STAMP, **NAMED)


@pytest.mark.parametrize(
    "other, holds",
    [
        ({"source": "b.pt"}, "holds a.pt:"),
        ({"weight_format": "int8"}, r"holds a.pt \(weight_format fp16\):"),
        ({"source_sha256": "2"}, "holds another a.pt:"),
        ({"dataset": "text"}, r"holds a.pt \(dataset None\):"),
    ],
)
def test_a_named_folder_with_another_model_is_left_alone(tmp_path, capsys, other, holds):
    folder, stamp = export(tmp_path / "ir"), {**STAMP, **other}
    with pytest.raises(UserError, match=f"{holds} choose another --output.*--overwrite"):
        model_files.is_to_be_made(folder, stamp, **NAMED)
    for by_default in ({"is_named": False, "overwrite": False}, {"is_named": True, "overwrite": 1}):
        assert model_files.is_to_be_made(folder, stamp, **by_default)
        assert "replacing" in capsys.readouterr().out
    shorter = {name: value for name, value in STAMP.items() if name != "source_sha256"}
    with pytest.raises(UserError):
        model_files.is_to_be_made(folder, shorter, **NAMED)


def test_other_versions_of_packages_export_again_and_say_so(tmp_path, capsys):
    folder = export(tmp_path / "ir")
    assert model_files.is_to_be_made(folder, {**STAMP, "packages": {"torch": "3"}}, **NAMED)
    assert "other versions" in capsys.readouterr().out


def test_a_damaged_export_is_found_before_it_is_loaded_and_made_again(tmp_path, capsys):
    folder = export(tmp_path / "ir")
    model_files.check_ir(folder / "m.xml", hint="")
    (folder / "m.bin").write_bytes(b"weig")
    with pytest.raises(UserError, match="m.bin is damaged .4 bytes, 7 when.*export it"):
        model_files.check_ir(folder / "m.xml", hint="export it")
    assert model_files.is_to_be_made(folder, STAMP, **NAMED)
    assert "damaged" in capsys.readouterr().out
    assert not model_files.is_to_be_made(export(folder), STAMP, **NAMED)


@pytest.mark.parametrize(
    "text",
    ['{"sou', "", "[1]", "7", '{"source": 5}', '{"source": "a", "x": NaN}', '{"source": "a", '
     '"x": 1e999}', "[" * 100_000, '{"source": "a", "files": 3}', "\udcff"],
)  # fmt: skip
def test_a_damaged_stamp_is_refused_before_anything_is_measured(tmp_path, text):
    folder = export(tmp_path / "ir")
    (folder / "export.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match="export.json is damaged"):
        model_files.check_ir(folder / "m.xml", hint="")


def test_a_users_own_partial_folder_stays(tmp_path):
    for name in ("ir.partial", ".ir.mine.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "precious").write_text("")
    export(tmp_path / "ir")
    assert len(list(tmp_path.glob("*.partial/precious"))) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [".ir.mine.partial", "ir",
                                                                "ir.partial"]  # fmt: skip


CHILD = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from harness import model_files
with model_files.exporting(Path({folder!r}), {{"source": "a"}}) as new:
    (new / "m.bin").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def start_export(folder):
    root = str(Path(model_files.__file__).parent.parent)
    code = CHILD.format(root=root, folder=str(folder))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("before", [False, True], ids=["new", "over an older one"])
def test_a_killed_export_leaves_what_was_there_and_the_next_one_cleans_up(tmp_path, before):
    folder = tmp_path / "ir"
    if before:
        export(folder)
    child = start_export(folder)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert folder.exists() == before and len(list(tmp_path.iterdir())) == 1 + before
    if before:
        assert not model_files.is_to_be_made(folder, STAMP, **NAMED)
    export(folder, weights=b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["ir"]
    assert {path.name for path in folder.iterdir()} == {"m.xml", "m.bin", "export.json"}
    assert (folder / "m.bin").read_bytes() == b"new"


def test_an_export_leaves_another_that_is_running_alone(tmp_path):
    child = start_export(tmp_path / "other")
    try:
        export(tmp_path / "ir")
        (running,) = tmp_path.glob(".other.*.partial/new/m.bin")
        assert running.read_bytes() == b"half"
    finally:
        child.kill()
        child.communicate()


def test_a_path_that_lies_beside_the_script_is_pointed_at(tmp_path, monkeypatch):
    export(tmp_path / "room" / "ir")
    script, elsewhere = tmp_path / "room" / "infer.py", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "argv", [str(script)])
    with pytest.raises(UserError, match=f"lies beside the script: {tmp_path}/room/ir/m.xml"):
        model_files.check_ir(Path("ir/m.xml"), hint="export it")
    assert model_files.beside(str(script), "ir") == tmp_path / "room" / "ir"
    monkeypatch.chdir(script.parent)
    assert model_files.beside(str(script), "ir") == Path("ir")


def test_the_stamp_keeps_sizes_out_of_the_record(tmp_path):
    folder = export(tmp_path / "ir")
    described = model_files.describe("m", folder, [folder / "m.xml"], "fp16")
    assert described["export"] == STAMP
    assert json.loads((folder / "export.json").read_text())["files"] == {"m.bin": 7, "m.xml": 6}
