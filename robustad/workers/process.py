"""A worker process: gets a job, starts it, and does pieces as they come.

A separate program rather than a fork or a spawned copy of the caller: it imports nothing of the
caller's script. On standard input come pickled messages, each after its length; they are the
caller's, who started this process. Answers are JSON lines, `robustad.workers.base.Word`.
"""

import json
import os
import pickle
import threading
from queue import SimpleQueue
from typing import Any, BinaryIO

from robustad.workers.base import reason

LENGTH = 8  # bytes that say how long a message is


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    inbox: SimpleQueue[bytes] = SimpleQueue()
    source = os.fdopen(os.dup(0), "rb")
    threading.Thread(target=_receive, args=(source, inbox), daemon=True).start()

    def tell(**word: Any) -> None:
        print(json.dumps(word), file=answers, flush=True)

    try:
        job, threads = pickle.loads(inbox.get())
        do = job.start(threads)
    except Exception as error:
        tell(failed=reason(error))
        return
    tell()
    while True:
        piece = pickle.loads(inbox.get())
        try:
            answer = do(piece)
        except Exception as error:
            tell(failed=reason(error))
        else:
            tell(answer=answer)


def _receive(source: BinaryIO, inbox: "SimpleQueue[bytes]") -> None:
    """Take in messages; end the process when whoever sends them has gone."""
    while len(head := source.read(LENGTH)) == LENGTH:
        size = int.from_bytes(head, "big")
        message = source.read(size)
        if len(message) < size:
            break
        inbox.put(message)
    os._exit(0)  # nobody waits for what the main thread is doing


if __name__ == "__main__":
    main()
