"""The playbooks: lint, and syntax."""

import os
import subprocess

import pytest
from conftest import REPO

FLEET = REPO / "fleet"
ENVIRONMENT = {**os.environ, "ANSIBLE_CONFIG": str(FLEET / "ansible.cfg")}
ENVIRONMENT["PATH"] = f"{FLEET / '.venv/bin'}:{ENVIRONMENT['PATH']}"
# Its collection is not in requirements.txt, as only those who rent need it.
HAS_AWS = (
    bool(list(FLEET.glob(".venv/lib/*/site-packages/ansible_collections/amazon/aws")))
    or (FLEET / "collections/ansible_collections/amazon/aws").exists()
)


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=FLEET, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_playbooks_are_lint_free():
    books = ["study.yml", "gpu_tgi.yml", *(["ec2.yml"] if HAS_AWS else [])]
    lint = ["ansible-lint", "--offline", "--nocolor", "--profile", "production"]
    run(*lint, *books, "roles", "inventory.example.yml")


@pytest.mark.parametrize("book", ["study.yml", "gpu_tgi.yml", "ec2.yml"])
def test_the_example_inventory_fits_the_playbooks(book):
    if book == "ec2.yml" and not HAS_AWS:
        pytest.skip("the collection amazon.aws is not installed (docs/fleet.md)")
    run("ansible-playbook", "--syntax-check", "-i", "inventory.example.yml", book)
