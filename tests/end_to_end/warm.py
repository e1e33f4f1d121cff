"""The command `mmssl` without its imports, which take longer than what pages do with it: forked from a process that has made them.

    python tests/end_to_end/warm.py FOLDER        # writes FOLDER/mmssl, and serves those who call it until it is killed

FOLDER/mmssl takes arguments as the command does. It sends them, with its working directory, its environment, and what it reads
and writes, to this process, and ends with the exit code that it is told.
"""

import array
import importlib
import json
import os
import socket
import sys
import traceback
from pathlib import Path
from typing import NoReturn

import mmssl_catalogue as catalogue
import mmssl_cli as cli

CLIENT = """\
#!{python} -IS
import array, json, os, socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect({place!r})
streams = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))
asked.sendmsg([b"!"], [streams])
asked.sendall(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode())
asked.shutdown(socket.SHUT_WR)
sys.exit(int(asked.recv(16)))
"""


def warm_up() -> None:
    """Import what the commands of pages import on their way, and stay free of threads, which a fork would not copy."""
    import torch

    torch.set_num_threads(1)
    import matplotlib.figure  # noqa: F401
    import sklearn.datasets  # noqa: F401

    import mmssl.api  # noqa: F401
    import mmssl.data.local_tables  # noqa: F401
    import mmssl.report.page  # noqa: F401


def answer(asked: socket.socket) -> None:
    """Run one command; its caller hears the exit code."""
    _, held, *_ = asked.recvmsg(1, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    streams = array.array("i")
    streams.frombytes(held[0][2])
    with asked.makefile("rb") as text:
        arguments, folder, environment = json.loads(text.read())
    child = os.fork()
    if not child:
        run(arguments, folder, environment, list(streams))
    for stream in streams:
        os.close(stream)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    asked.sendall(str(code if code >= 0 else 128 - code).encode())


def run(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> NoReturn:
    """What the console script does, in a process that is forked."""
    code = 1
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        find_packages(environment.get("PYTHONPATH", ""))
        sys.argv = ["mmssl", *arguments]
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def find_packages(path: str) -> None:
    """Look for packages in what PYTHONPATH names, as an interpreter does that starts."""
    sys.path[:0] = [folder for folder in path.split(os.pathsep) if folder and folder not in sys.path]
    importlib.invalidate_caches()
    catalogue.points.cache_clear()


def main() -> None:
    folder = Path(sys.argv[1])
    place, client = str(folder / "socket"), folder / "mmssl"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        warm_up()
        server.listen()
        client.write_text(CLIENT.format(python=sys.executable, place=place), encoding="utf-8")
        client.chmod(0o755)
        print("ready", flush=True)
        while True:
            asked, _ = server.accept()
            with asked:
                answer(asked)


if __name__ == "__main__":
    main()
