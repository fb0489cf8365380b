import errno

import pytest

from harness import cli


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
            "error: the disk is full (out.mp4): make room and run again\n",
        ),
    ],
)
def test_what_a_user_can_put_right_is_one_line_and_a_status(capsys, error, status, words):
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: fail(error))
    assert ended.value.code == status and capsys.readouterr().err == words


def test_a_defect_is_not_hidden():
    with pytest.raises(OSError, match="broken"):
        cli.run(lambda: fail(OSError(errno.EIO, "broken")))
