"""The LLM workload's scripts run in the tests' own process, and a model that takes them little."""

import atexit
import contextlib
import functools
import importlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import openvino
import pytest
from conftest import REPO, Workload

from harness import cli

FOLDER = REPO / "llm-workload"
DEMO = FOLDER / "smollm2-135m-instruct-ov"
sys.path.insert(0, str(FOLDER))


class InProcess(Workload):
    """Runs a script in this process, which loads the libraries once.

    One to be `fresh`, with a prefix, environment or timeout of its own, or to be start()ed, has a
    process of its own.
    """

    def command(self, script: str, *args, fresh=True) -> list[str]:
        return super().command(script, *args, fresh=True)

    def run(self, script: str, *args, **how) -> subprocess.CompletedProcess:
        if how:
            return super().run(script, *args, **how)
        main = importlib.import_module(script.removesuffix(".py")).main
        before = sys.argv, os.getcwd()
        sys.argv = command = [script, *map(str, args)]
        os.chdir(self.folder)
        out, errors = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
                with pytest.raises(SystemExit) as ended:
                    cli.run(main)
        finally:
            sys.argv = before[0]
            os.chdir(before[1])
        status = ended.value.code
        if status == cli.EXIT_INTERRUPTED:  # Ctrl-C is for the tests
            raise KeyboardInterrupt
        return subprocess.CompletedProcess(command, status, out.getvalue(), errors.getvalue())


@functools.cache
def small_model() -> Path:
    """The demo model without the layers after the first: loads in a second, and says nonsense."""
    folder = Path(tempfile.mkdtemp()) / "small-ov"
    atexit.register(shutil.rmtree, folder.parent)
    ir = openvino.Core().read_model(DEMO / "openvino_model.xml")
    after = {node.get_friendly_name(): node.output(0) for node in ir.get_ops() if node.outputs()}
    layers = "__module.model.layers.{}/aten::add/Add_1".format
    after[layers(29)].replace(after[layers(0)])
    is_kept = re.compile(r"past_key_values\.0\.").match
    for sink in ir.get_sinks():
        if not is_kept(sink.get_variable_id()):
            ir.remove_sink(sink)
    for variable in ir.get_variables():
        if not is_kept(variable.info.variable_id):
            ir.remove_variable(variable)
    ignored = shutil.ignore_patterns("openvino_model.*", "export.json")
    shutil.copytree(DEMO, folder, ignore=ignored, copy_function=os.symlink)
    openvino.save_model(ir, folder / "openvino_model.xml", compress_to_fp16=False)
    return folder
