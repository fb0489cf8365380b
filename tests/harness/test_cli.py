import argparse
import errno
import subprocess
import sys

import pytest
from conftest import REPO

from harness import cli


@pytest.mark.parametrize(
    "check, text, words",
    [
        (cli.positive_int, "x", "must be a whole number from 1 on, not 'x'"),
        (cli.positive_int, "0", "must be a whole number from 1 on, not '0'"),
        (cli.positive_int, "99999999999999", "from 1 to 2,147,483,647, not '99999999999999'"),
        (cli.positive_int, "9" * 5000, "must be a whole number from 1 on, not '9999"),
        (cli.non_negative_int, "-1", "must be a whole number from 0 on, not '-1'"),
        (cli.positive_float, "nan", "must be a number above 0, not 'nan'"),
        (cli.non_negative_float, "inf", "must be a number from 0 on, not 'inf'"),
        (cli.share, "1.1", "must be a number from 0 to 1, not '1.1'"),
    ],
)
def test_a_number_that_is_not_allowed_is_said_in_words(check, text, words):
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--n", type=check)
    with pytest.raises(argparse.ArgumentError, match=words.replace("(", r"\(")) as caught:
        parser.parse_args([f"--n={text}"])
    assert len(str(caught.value)) < 120
    assert check("1") == 1


def fail(error):
    raise error


@pytest.mark.parametrize(
    "error, status, words",
    [
        (cli.UserError("no model here: export it"), 1, "error: no model here: export it\n"),
        (KeyboardInterrupt(), 130, "interrupted: nothing had been measured yet\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out.mp4"),
            1,
            "error: out.mp4: No space left on device: make room and run again\n",
        ),
    ],
)
def test_what_a_user_can_put_right_is_one_line_and_a_status(capsys, error, status, words):
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: fail(error))
    assert ended.value.code == status and capsys.readouterr().err == words


def test_a_defect_is_not_hidden(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: fail(OSError(errno.EIO, "broken")))
    assert ended.value.code == 1 and "Traceback" in capsys.readouterr().err


def test_no_control_character_reaches_a_terminal(capsys):
    with pytest.raises(SystemExit):
        cli.run(lambda: print("red \x1b[31m, title \x1b]0;x\x07, \u202eright to left") or 0)
    assert capsys.readouterr().out == "red \\x1b[31m, title \\x1b]0;x\\x07, \\u202eright to left\n"


def test_a_process_that_a_library_starts_and_ends_says_nothing(tmp_path):
    """As openvino-telemetry does: spawned, it loads the script again, and is terminated."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(REPO)!r})\n"
        "from harness import cli\n"
        "cli.quit_on_signals()\n"
        "import multiprocessing, time\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    ready = context.Event()\n"
        "    other = context.Process(target=ready.set)\n"
        "    waiting = context.Process(target=time.sleep, args=(60,))\n"
        "    other.start(); waiting.start(); ready.wait(); other.join(); time.sleep(1)\n"
        "    waiting.terminate(); waiting.join()\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
