"""Jobs over HTTP, done by workers, with a stream in Redis between them.

`POST /jobs` asks for the words of the body to be counted, `GET /jobs` tells what was counted by whom.
"""

import json
import os
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import redis

JOBS, WORKERS, RESULTS = "jobs", "workers", "results"
SECONDS = float(os.environ.get("JOB_SECONDS", "0.2"))
# A job whose worker has said nothing for so long is done by another.
LOST_AFTER = int(os.environ.get("LOST_AFTER_SECONDS", "3")) * 1000

# Connects when it is used: a server that was restarted is found again by its name.
queue = redis.Redis(
    host=os.environ["REDIS_HOST"],
    decode_responses=True,
    socket_connect_timeout=3,
    socket_timeout=10,
)


def work():
    worker = socket.gethostname()
    while True:
        try:
            join()
            while True:
                for number, job in take(worker):
                    do(worker, number, job["text"])
        except redis.RedisError as error:
            print(f"the queue does not answer: {error}")
            time.sleep(0.5)


def join():
    try:
        queue.xgroup_create(JOBS, WORKERS, id="0", mkstream=True)
    except redis.ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise


def take(worker):
    lost = queue.xautoclaim(JOBS, WORKERS, worker, min_idle_time=LOST_AFTER, count=1)[1]
    if lost:
        return lost
    answer = queue.xreadgroup(WORKERS, worker, {JOBS: ">"}, count=1, block=1000)
    return answer[0][1] if answer else []


def do(worker, number, text):
    time.sleep(SECONDS)  # Words are counted too fast to see anything.
    result = {"text": text, "words": len(text.split()), "worker": worker}
    with queue.pipeline() as transaction:
        transaction.hset(RESULTS, number, json.dumps(result))
        transaction.xack(JOBS, WORKERS, number)
        transaction.execute()
    print(f"{number}: {text}")


def state():
    results = queue.hgetall(RESULTS)
    numbers = [number for number, _ in queue.xrange(JOBS)]
    done = [json.loads(results[number]) for number in numbers if number in results]
    return {"waiting": len(numbers) - len(done), "done": done}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            self.answer(queue.ping)
        elif self.path == "/jobs":
            self.answer(state)
        else:
            self.send_error(404)

    def do_POST(self):
        if self.path != "/jobs":
            return self.send_error(404)
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.answer(lambda: queue.xadd(JOBS, {"text": text}))

    def answer(self, value):
        try:
            status, body = 200, json.dumps(value())
        except redis.RedisError as error:
            status, body = 503, json.dumps({"error": str(error)})
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode() + b"\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        work()
    else:
        ThreadingHTTPServer(("", 8000), Handler).serve_forever()
