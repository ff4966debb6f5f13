"""Use a built wheel in an environment that has nothing else: ``python tests/house/check_wheel.py FOLDER``."""

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

USE = """
import sys
import tai_state
optional = {"trio", "typer", "rich", "google", "grpc"} & sys.modules.keys()
assert not optional, f"import tai_state loads {optional}"
assert not any(name.startswith("tai_state.cli") for name in sys.modules)
"""


def main(folder: Path) -> None:
    """Check what is in the wheel, install it, import it, run its command."""
    [wheel] = folder.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "tai_state/py.typed" in names, "the wheel does not say that it is typed"
    strays = [name for name in names if not name.startswith(("tai_state/", "tai_state-", "pytest_tai_state.py"))]
    assert not strays, f"the wheel holds {strays}"
    with tempfile.TemporaryDirectory() as place:
        venv.create(place, with_pip=True)
        binaries = Path(place) / "bin"
        run = [str(binaries / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", str(wheel)]
        subprocess.run(run, check=True)
        subprocess.run([str(binaries / "python"), "-c", USE], check=True, cwd=place)
        subprocess.run([str(binaries / "tai-state"), "demo", "--json"], check=True, cwd=place)
    print(f"{wheel.name}: {len(names)} files, installs, imports and runs by itself")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
