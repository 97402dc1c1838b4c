#!/usr/bin/env python3
"""A registry that breaks: passes requests on to a good one, with faults as a file says.

faulty-proxy.py PORT UPSTREAM-PORT RULES LOG

RULES is JSON, read anew for each request: a list of objects with
  path    what the path must contain ("" for all), method (default GET)
  fault   cut (ends the connection after "after" bytes of the body), status ("status", with "headers"),
          wrong (flips a byte of a body that is longer than "over"), slow ("seconds" before the answer), plain (no ranges),
          token (wants a token, which /token gives for me:secret and for the identity token "identity")
  times   how often it strikes; left out: always
LOG gets a line for each request: method, path, range or "-", status.
"""

import base64
import collections
import http.client
import http.server
import json
import sys
import threading
import time

port, upstream, rules, log = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
lock = threading.Lock()
strikes = collections.Counter()


class Proxy(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def note(self, status):
        with lock, open(log, "a") as out:
            print(self.command, self.path, self.headers.get("Range", "-"), status, file=out)

    def fault(self):
        with lock, open(rules) as text:
            for rule in json.load(text):
                if rule["path"] not in self.path or rule.get("method", "GET") != self.command:
                    continue
                key = json.dumps(rule)
                if strikes[key] >= rule.get("times", 1 << 30):
                    continue
                strikes[key] += 1
                return rule
        return {"fault": "none"}

    def answer(self):
        body = None
        if "Content-Length" in self.headers:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/token"):
            return self.token(body)
        rule = self.fault()
        if rule["fault"] == "token":
            if self.headers.get("Authorization") != "Bearer good":
                realm = f'Bearer realm="http://localhost:{port}/token",service="test"'
                rule = {"fault": "status", "status": 401, "headers": {"WWW-Authenticate": realm}}
            else:
                del self.headers["Authorization"]
        if rule["fault"] == "slow":
            time.sleep(rule["seconds"])
        if rule["fault"] == "status":
            text = json.dumps({"errors": [{"code": "INJECTED", "message": "injected fault"}]}).encode()
            self.note(rule["status"])
            self.send_response(rule["status"])
            for name, value in rule.get("headers", {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)
            return
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        headers["Host"] = self.headers["Host"]
        if rule["fault"] == "plain":
            headers.pop("Range", None)
            headers.pop("range", None)
        connection = http.client.HTTPConnection("127.0.0.1", upstream)
        connection.request(self.command, self.path, body=body, headers=headers)
        response = connection.getresponse()
        data = response.read()
        self.note(response.status)
        if rule["fault"] == "wrong" and len(data) > rule.get("over", 0):
            data = bytes([data[0] ^ 1]) + data[1:]
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = response.headers.get("Content-Length") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if rule["fault"] == "cut":
            self.wfile.write(data[: rule["after"]])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
            return
        self.wfile.write(data)

    def token(self, body):
        basic = "Basic " + base64.b64encode(b"me:secret").decode()
        good = self.headers.get("Authorization") == basic or b"refresh_token=identity" in (body or b"")
        text = json.dumps({"token": "good"} if good else {"details": "incorrect username or password"}).encode()
        self.note(200 if good else 401)
        self.send_response(200 if good else 401)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = answer


http.server.ThreadingHTTPServer.daemon_threads = True
http.server.ThreadingHTTPServer(("127.0.0.1", port), Proxy).serve_forever()
