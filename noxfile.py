"""Every command that keeps this project in order, in one list: ``nox -l``."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["lint", "types", "docs", "tests", "wheel"]

TESTS = ("-r", "tests/requirements.txt")
SAFE = {"PYTHONSAFEPATH": "1"}
VERSIONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))


def _install_wheel(session: nox.Session, *more: str) -> None:
    """Install the package as a user gets it: built, not from the working tree."""
    session.install(".[all]", *more)


@nox.session
def tests(session: nox.Session) -> None:
    """The whole suite, against the installed package."""
    _install_wheel(session, *TESTS)
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "worksteal", *session.posargs, env=SAFE)


@nox.session(python=VERSIONS)
def versions(session: nox.Session) -> None:
    """The whole suite on each Python that ``pyproject.toml`` names."""
    tests(session)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and mistakes that can be seen without running."""
    session.install("ruff==0.17.6")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Both type checkers, strict, over the package and over what users copy: pages, examples, a user's code."""
    _install_wheel(session, "mypy==2.4.1", "pyright==1.1.414", *TESTS)
    session.run("mypy")
    session.run("pyright", "--pythonpath", f"{session.bin}/python")
    session.run("pyright", "--pythonpath", f"{session.bin}/python", "--verifytypes", "tai_state", "--ignoreexternal")
    session.run("python", "-m", "pytest", "tests/house/check_users_code.py", env=SAFE)


@nox.session
def docs(session: nox.Session) -> None:
    """Every example in the documents runs, every link leads somewhere."""
    _install_wheel(session, *TESTS)
    files = ("test_docs.py", "test_format.py", "test_examples.py", "test_web_example.py")
    session.run("python", "-m", "pytest", *(f"tests/house/{file}" for file in files), env=SAFE)


@nox.session
def browser(session: nox.Session) -> None:
    """The pages of the monitoring endpoint in a real browser, Debian's chromium; keeps screenshots to look at."""
    _install_wheel(session, *TESTS)
    shots = {"TAI_STATE_SCREENSHOTS": session.create_tmp()}
    session.run("python", "-m", "pytest", "tests/web/check_browser.py", *session.posargs, env={**SAFE, **shots})


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel and use it in an environment that has nothing else."""
    session.install("build")
    folder = session.create_tmp()
    session.run("python", "-m", "build", "--outdir", folder, silent=True)
    session.run("python", "tests/house/check_wheel.py", folder)


@nox.session
def proof(session: nox.Session) -> None:
    """The long counts: crashes, power loss, disk faults, model runs. Takes most of an hour."""
    _install_wheel(session, *TESTS)
    session.run("python", "tests/proof", "--tier", "full", *session.posargs, env=SAFE)
    session.run("python", "tests/proof", "--only", "features", env=SAFE)
    session.run(
        "python",
        "-m",
        "pytest",
        "tests/streams/test_store_model.py",
        "tests/streams/test_faults.py",
        "tests/engines/firestore/test_faults.py",
        "tests/streams/test_histories.py",
        "tests/conflicts/test_sync.py",
        "tests/locks/test_processes.py",
        "tests/machines/test_machine_walks.py",
        env={**SAFE, "TAI_STATE_PROOF": "1"},
    )


@nox.session
def bench(session: nox.Session) -> None:
    """Comparisons with other libraries and with the bare engine, in one run."""
    _install_wheel(session, "-r", "benchmarks/requirements.txt")
    session.run("python", "benchmarks/run.py", *session.posargs)
    session.run("python", "benchmarks/watches.py")
    session.run("python", "benchmarks/firestore.py")
    session.run("python", "benchmarks/contention.py")
    session.run("python", "benchmarks/machines.py")


@nox.session
def releases(session: nox.Session) -> None:
    """The working tree compared with an earlier release, in one run."""
    _install_wheel(session)
    session.run("python", "benchmarks/releases.py", *session.posargs)
