"""Where the models folder is: by the owner's word, the server's, its environment, its mounts."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ollama_guard.core.model import ServerReading
from ollama_guard.hands.adapters.manifests import Place, Wanted, locate

SERVER = ServerReading(pid=77, start_ticks=1, uid=0, cgroup="/", proof="a test's")
BLOB = "sha256:" + "ab" * 32


def store(folder: Path) -> Path:
    (folder / "manifests").mkdir(parents=True)
    (folder / "blobs").mkdir()
    (folder / "blobs" / BLOB.replace(":", "-")).touch()
    return folder


def process(proc: Path, root: Path, mounts: str = "", environ: str = "", *, ours: bool = False) -> Path:
    """A process of a made-up /proc; ``ours``: it sees the same file systems as we do."""
    for pid in ("77", "self"):
        (proc / pid / "ns").mkdir(parents=True)
    (proc / "self" / "ns" / "mnt").touch()
    (proc / "self" / "mountinfo").write_text("20 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    (proc / "77" / "root").symlink_to(root)
    (proc / "77" / "mountinfo").write_text(mounts)
    (proc / "77" / "environ").write_text(environ)
    if ours:
        (proc / "77" / "ns" / "mnt").symlink_to(proc / "self" / "ns" / "mnt")
    else:
        (proc / "77" / "ns" / "mnt").touch()
    return proc


def test_the_owner_s_word_comes_first_and_a_wrong_one_is_said(tmp_path: Path) -> None:
    folder = store(tmp_path / "mine")
    assert locate(Wanted(configured=str(folder), told="/elsewhere")) == Place(str(folder))
    told = locate(Wanted(configured=str(tmp_path), told=str(folder)))
    assert told.path == ""
    assert "models_folder" in told.why_not


def test_a_server_beside_us_means_what_it_says_also_through_its_owner_s_links(tmp_path: Path) -> None:
    folder = store(tmp_path / "data")
    linked = tmp_path / "models"
    linked.symlink_to(folder)
    proc = process(tmp_path / "proc", Path("/"), ours=True)
    assert locate(Wanted(told=str(linked), servers=(SERVER,)), proc) == Place(str(linked))


@pytest.mark.parametrize("environ", ["OLLAMA_MODELS={0}/m/.ollama/models\0", "X=1\0HOME={0}/m\0"])
def test_a_server_that_has_not_answered_is_asked_for_its_environment(tmp_path: Path, environ: str) -> None:
    folder = store(tmp_path / "m/.ollama/models")
    proc = process(tmp_path / "proc", Path("/"), environ=environ.format(tmp_path), ours=True)
    assert locate(Wanted(servers=(SERVER,)), proc) == Place(str(folder))


def test_a_container_s_volume_is_found_by_both_mount_tables(tmp_path: Path) -> None:
    """The volume's folder on our file system is a link here, which comes near to a mount."""
    volume = tmp_path / "vol ume"
    volume.symlink_to(store(tmp_path / "root/root/.ollama/models").parent)
    root = tmp_path / "root"
    escaped = str(volume).replace(" ", "\\040")
    mounts = f"30 1 0:50 / / rw - overlay o rw\n31 30 8:1 {escaped} /root/.ollama rw - ext4 /dev/sda1 rw\n"
    proc = process(tmp_path / "proc", root, mounts)
    told = locate(Wanted(told="/root/.ollama/models", servers=(SERVER,)), proc)
    assert told == Place(f"{volume}/models")


@pytest.mark.parametrize("name", ["für Ölama", "a\\040b", "tab\tnew\nline", "\u2028 \x85 \x0c", "\udcff"])
def test_a_mount_point_is_read_whatever_its_letters_are(tmp_path: Path, name: str) -> None:
    """Also bytes that are no UTF-8; the kernel writes four characters in octal, and all else as it is."""
    volume = tmp_path / name
    volume.symlink_to(store(tmp_path / "root/root/.ollama/models").parent)
    escaped = str(volume).replace("\\", "\\134")
    for letter in " \t\n":
        escaped = escaped.replace(letter, f"\\{ord(letter):03o}")
    proc = process(tmp_path / "proc", tmp_path / "root")
    line = f"31 30 8:1 {escaped} /root/.ollama rw - ext4 /dev/sda1 rw\n"
    (proc / "77" / "mountinfo").write_bytes(os.fsencode(line))
    told = locate(Wanted(told="/root/.ollama/models", servers=(SERVER,)), proc)
    assert told == Place(f"{volume}/models")


def test_a_container_without_a_volume_is_reached_through_its_process_while_it_lives(tmp_path: Path) -> None:
    store(tmp_path / "root/root/.ollama/models")
    proc = process(tmp_path / "proc", tmp_path / "root", "30 1 0:50 / / rw - overlay o rw\n")
    told = locate(Wanted(servers=(SERVER,)), proc)
    assert told == Place(f"{proc}/77/root/root/.ollama/models", lasting=False)


def test_a_link_in_a_container_means_a_place_in_there_and_is_not_followed_here(tmp_path: Path) -> None:
    aside = store(tmp_path / "aside")
    (tmp_path / "root/root/.ollama").mkdir(parents=True)
    (tmp_path / "root/root/.ollama/models").symlink_to(aside)
    proc = process(tmp_path / "proc", tmp_path / "root", "30 1 0:50 / / rw - overlay o rw\n")
    assert locate(Wanted(told="/root/.ollama/models", servers=(SERVER,)), proc).path == ""


def test_the_same_path_with_other_models_in_it_is_not_the_server_s(tmp_path: Path) -> None:
    folder = store(tmp_path / "models")
    assert locate(Wanted(told=str(folder), blobs=(BLOB,))) == Place(str(folder))
    assert locate(Wanted(told=str(folder), blobs=("sha256:" + "00" * 32,))).path == ""
    assert locate(Wanted(told=str(folder))).path == "", "nothing proves it"


def test_of_two_servers_the_one_is_taken_whose_folder_holds_what_ollama_tells_of(tmp_path: Path) -> None:
    proc = process(tmp_path / "proc", Path("/"), environ=f"OLLAMA_MODELS={tmp_path}/other\0", ours=True)
    (proc / "78" / "ns").mkdir(parents=True)
    (proc / "78" / "ns" / "mnt").symlink_to(proc / "self" / "ns" / "mnt")
    (proc / "78" / "environ").write_text(f"OLLAMA_MODELS={tmp_path}/ours\0")
    (tmp_path / "other" / "manifests").mkdir(parents=True)
    folder = store(tmp_path / "ours")
    both = (SERVER, replace(SERVER, pid=78))
    assert locate(Wanted(blobs=(BLOB,), servers=both), proc) == Place(str(folder))
    assert locate(Wanted(servers=both), proc).path == "", "nothing proves either"


def test_where_it_was_is_remembered_while_the_server_is_stopped(tmp_path: Path) -> None:
    folder = store(tmp_path / "models")
    assert locate(Wanted(remembered=str(folder))) == Place(str(folder))
    proc = process(tmp_path / "proc", tmp_path)
    assert locate(Wanted(remembered=str(folder), servers=(SERVER,)), proc).path == ""


@pytest.mark.parametrize("inside", ["../../etc", "relative", "/a/../../etc"])
def test_a_path_that_leads_elsewhere_is_not_taken(tmp_path: Path, inside: str) -> None:
    store(tmp_path / "etc")
    proc = process(tmp_path / "proc", tmp_path / "root")
    assert locate(Wanted(told=inside, servers=(SERVER,)), proc).path == ""
