"""Every way of installing gives the same importable package."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOOK = """
import importlib, pkgutil, sys
import reshelve
for module in pkgutil.walk_packages(reshelve.__path__, "reshelve."):
    if module.name != "reshelve.__main__":
        importlib.import_module(module.name)
files = [m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "reshelve"]
assert len(files) == len(set(files)), "a module was imported twice"
assert not {"producers", "consumers", "schemas"} & set(sys.modules), "a bare copy was imported"
print(reshelve.__file__)
"""


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as git has it, so that building leaves nothing in the working tree."""
    folder = tmp_path_factory.mktemp("source")
    names = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=ROOT).split("\0")
    for name in filter(None, names):
        here, there = ROOT / name, folder / name
        if not here.exists():
            continue
        there.parent.mkdir(parents=True, exist_ok=True)
        if here.is_symlink():
            there.symlink_to(here.readlink())
        else:
            there.write_bytes(here.read_bytes())
    return folder


def build(kind: str, source: Path, out: Path) -> Path:
    run(sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(out), str(source), cwd=source)
    (built,) = out.iterdir()
    return built


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_wheel_and_sdist_hold_the_same_package(source: Path, tmp_path: Path) -> None:
    wheel = build("wheel", source, tmp_path / "wheel")
    sdist = build("sdist", source, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    rebuilt = build("wheel", unpacked, tmp_path / "rebuilt")
    names = names_in(wheel)
    assert names == names_in(rebuilt)

    wanted = {
        str(Path("reshelve") / file.relative_to(folder))
        for folder in (source / "src" / "reshelve",)
        for file in folder.rglob("*")
        if file.suffix in (".py", ".json", ".yaml", ".typed") and not file.is_symlink()
    } | {
        f"reshelve/{folder}/{file.name}"
        for folder in ("producers", "consumers", "schemas")
        for file in (source / folder).iterdir()
        if file.suffix in (".py", ".avsc")
    }
    assert wanted <= names
    assert {name.split("/")[0] for name in names} == {"reshelve"}, "nothing is installed beside the package"

    target = tmp_path / "installed"
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    run(sys.executable, *pip, cwd=tmp_path)
    look = f"import sys; sys.path.insert(0, {str(target)!r})\n{LOOK}"
    where = run(sys.executable, "-c", look, cwd=tmp_path).strip()
    assert where.startswith(str(target))


def test_the_installed_package_imports_once() -> None:
    run(sys.executable, "-c", LOOK, cwd=Path(__file__).parent)
