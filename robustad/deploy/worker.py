"""A worker process of `score`: a model loaded once, and shards as they come, until there are none.

Reads a job and then shards as JSON lines, and answers each with a line. A separate program rather
than a fork or a spawned copy of the caller: it imports nothing of the caller's script.
"""

import json
import os
import sys

from robustad.deploy.shards import Job, Shard, score_shard
from robustad.deploy.tolerant import reason


def main() -> None:
    """Serve until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not be taken for an answer
    job = Job(**json.loads(sys.stdin.readline()))
    try:
        model = job.load()
    except Exception as error:
        print(json.dumps({"failed": reason(error)}), file=answers, flush=True)
        return
    print(json.dumps({"ready": os.getpid()}), file=answers, flush=True)
    for line in sys.stdin:
        shard = Shard(**json.loads(line))
        try:
            score_shard(model, job, shard)
        except Exception as error:
            answer = {"shard": shard.index, "failed": reason(error)}
        else:
            answer = {"shard": shard.index}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
