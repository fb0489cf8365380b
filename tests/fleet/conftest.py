"""The machines, made once."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from fleet_machines import SSHD, Machine, make_key


@pytest.fixture(scope="session")
def machines(tmp_path_factory):
    """Two machines that ssh reaches: {name: (Machine, its variables in an inventory)}.

    Each of the processes that run tests at a time has two of its own.
    """
    if os.geteuid():
        pytest.skip("only root makes network namespaces")
    if not (SSHD and shutil.which("ip") and shutil.which("unshare")):
        pytest.skip("sshd, ip or unshare is missing (openssh-server, iproute2, util-linux)")
    folder = tmp_path_factory.mktemp("machines")
    made: dict[str, Machine] = {}
    make_key(folder / "key")
    known = folder / "known_hosts"
    try:
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        for number, name in enumerate(("alpha", "beta"), 2 * worker):
            try:
                made[name] = Machine(name, number, folder / name, folder / "key")
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces: {error.stderr.decode().strip()}")
            made[name].start()
        public = {each.address: f"{each.key}.pub" for each in made.values()}
        known.write_text("".join(f"{ip} {Path(key).read_text()}" for ip, key in public.items()))
        yield {
            name: (
                each,
                {
                    "ansible_host": each.address,
                    "ansible_user": "root",
                    "ansible_ssh_private_key_file": str(folder / "key"),
                    "ansible_ssh_common_args": f"-o UserKnownHostsFile={known}",
                },
            )
            for name, each in made.items()
        }
    finally:
        for each in made.values():
            each.remove()
