# SPDX-License-Identifier: Apache-2.0
"""A MONAI Label server with packed bundles: ``python -m integrations.monai_label.serve --venv V --bundles A B ...``."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from integrations.monai_label.client import LabelClient, LabelError

logger = logging.getLogger(__name__)

_ANSWERS = Path(__file__).parent / "server"


class LabelServer:
    """MONAI Label's ``monaibundle`` app in a process of its own; as a context manager it starts and stops.

    Args:
        venv: environment that ``install.py`` made.
        bundles: folders of packed bundles. They are copied into the app, where training changes them; a copy that is
            there is kept with what it has learnt. Localizers are served last: 3D Slicer numbers the segments that it
            saves in the order of the labels of all models, and those of the one that learns must be 1, 2, ...
        studies: folder of scans; MONAI Label writes the labels that it is given into ``labels`` in it.
        work_dir: where the app and the log ``server.log`` go.
        port: where it listens; 0: any that is free.
        host: address of this machine that it listens on.
        patience: seconds until it must be ready.

    Raises:
        FileNotFoundError: if one of the folders is not there.
    """

    def __init__(
        self,
        venv: str | Path,
        bundles: Sequence[str | Path],
        studies: str | Path,
        work_dir: str | Path,
        port: int = 0,
        host: str = "127.0.0.1",
        patience: float = 180.0,
    ) -> None:
        self.python = Path(venv).absolute() / "bin" / "python"
        folders = [Path(bundle).absolute() for bundle in bundles]
        self.bundles = sorted(folders, key=lambda folder: folder.name.endswith("_localization"))
        self.studies, self.work_dir = Path(studies).absolute(), Path(work_dir).absolute()
        self.host, self.port = host, port or free_port(host)
        self.patience = patience
        self.process: subprocess.Popen[bytes] | None = None
        for needed in (self.python, self.studies, *(bundle / "configs" / "inference.yaml" for bundle in self.bundles)):
            if not needed.exists():
                raise FileNotFoundError(f"{needed} is missing: see integrations/monai_label/README.md.")

    @property
    def url(self) -> str:
        """Address for clients."""
        return f"http://{self.host}:{self.port}"

    @property
    def app(self) -> Path:
        """Folder of the app; ``model/<name>`` in it are the bundles that are served."""
        return self.work_dir / "monaibundle"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.work_dir / "server.log"

    def __enter__(self) -> Self:
        """Start and wait until it answers.

        Raises:
            RuntimeError: if it ends, or is not ready in time; with the last lines of its log.
        """
        self._make_app()
        command = [str(self.python), "-m", "monailabel.main", "start_server", "--app", str(self.app)]
        command += ["--studies", str(self.studies), "--host", self.host, "--port", str(self.port)]
        # zoo_source: anything else asks the internet first; sam2: it would be downloaded
        for key, value in (
            ("models", ",".join(b.name for b in self.bundles)),
            ("zoo_source", "local"),
            ("sam2", "false"),
        ):
            command += ["--conf", key, value]
        command += ["--uvicorn_app", "clear_answers:app"]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, cwd=self.work_dir, env=self._environment(), stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def stop(self) -> None:
        """End the server and a training that it has begun."""
        if self.process is None or self.process.poll() is not None:
            return
        try:
            LabelClient(self.url, timeout=10).stop_training()
        except (LabelError, OSError):
            logger.debug("The server no longer answers.")
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log_tail(self, lines: int = 25) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.is_file() else ""

    def _make_app(self) -> None:
        self.work_dir.mkdir(parents=True, exist_ok=True)
        if not (self.app / "main.py").is_file():
            command = [str(self.python), "-m", "monailabel.main", "apps", "--download", "--name", "monaibundle"]
            subprocess.run(
                [*command, "--output", str(self.work_dir)],
                check=True, env=self._environment(), stdout=subprocess.DEVNULL,
            )  # fmt: skip
        for bundle in self.bundles:
            copy = self.app / "model" / bundle.name
            if copy.exists():
                logger.info("%s is there and is served as it is. Remove it to start from %s.", copy, bundle)
                continue
            shutil.copytree(bundle, copy)

    def _environment(self) -> dict[str, str]:
        """The process's environment: none of this one's Python, so that a bundle must bring what it needs."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        path = f"{self.python.parent}{os.pathsep}{kept.get('PATH', '')}"
        return {**kept, "PATH": path, "PYTHONPATH": str(_ANSWERS), "VIRTUAL_ENV": str(self.python.parents[1])}

    def _wait_until_ready(self) -> None:
        assert self.process is not None
        client = LabelClient(self.url, timeout=10)
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"The server ended with {self.process.returncode}:\n{self.log_tail()}")
            try:
                client.info()
            except OSError:
                time.sleep(0.5)
            else:
                return
        raise RuntimeError(f"The server is not ready after {self.patience:.0f} seconds:\n{self.log_tail()}")


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what :func:`server_of` reads."""
    parser.add_argument("--venv", required=True, help="environment that install.py made")
    parser.add_argument("--bundles", required=True, nargs="+", help="folders of packed bundles")
    parser.add_argument("--studies", required=True, help="folder of scans; labels are written into it")
    parser.add_argument("--work_dir", default="output/monai_label", help="for the app, trained copies, the log")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: other machines may connect, without a password")


def server_of(options: argparse.Namespace) -> LabelServer:
    """Return the server that a command line asks for."""
    named = ("venv", "bundles", "studies", "work_dir", "port", "host")
    return LabelServer(**{name: getattr(options, name) for name in named})


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_server_arguments(parser)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with server_of(parser.parse_args()) as server:
        logger.info("MONAI Label at %s, log in %s. Ctrl-C stops it.", server.url, server.log)
        assert server.process is not None
        try:
            server.process.wait()
        except KeyboardInterrupt:
            logger.info("Stopped.")


if __name__ == "__main__":
    main()
