"""A shop's orders over HTTP: `GET /orders` lists them, `POST /orders` adds what the body says."""

import json
import os
import pathlib
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2

MIGRATIONS = [
    "CREATE TABLE orders (id serial PRIMARY KEY, article text NOT NULL)",
    "ALTER TABLE orders ADD COLUMN placed timestamptz NOT NULL DEFAULT now()",
]


def connect():
    # A connection for each request: a database that was restarted is found again by its name.
    return psycopg2.connect(
        host=os.environ["DATABASE_HOST"],
        user=os.environ["DATABASE_USER"],
        dbname=os.environ["DATABASE_NAME"],
        password=pathlib.Path("/run/secrets/db_password").read_text().strip(),
        connect_timeout=3,
    )


def ask(query, values=()):
    connection = connect()
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()
    finally:
        connection.close()


def migrate():
    """Applies the migrations that the database does not have yet."""
    connection = connect()
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS migrations (number integer PRIMARY KEY)")
        cursor.execute("SELECT count(*) FROM migrations")
        (done,) = cursor.fetchone()
        for number, statement in enumerate(MIGRATIONS[done:], done):
            cursor.execute(statement)
            cursor.execute("INSERT INTO migrations VALUES (%s)", (number,))
    connection.close()
    print(f"{len(MIGRATIONS) - done} migration(s) applied, {done} were there")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            self.answer(lambda: ask("SELECT 'ok'")[0][0])
        elif self.path == "/orders":
            self.answer(lambda: [row[0] for row in ask("SELECT article FROM orders ORDER BY id")])
        else:
            self.send_error(404)

    def do_POST(self):
        if self.path != "/orders":
            return self.send_error(404)
        article = self.rfile.read(int(self.headers["Content-Length"])).decode()
        insert = "INSERT INTO orders (article) VALUES (%s) RETURNING id"
        self.answer(lambda: ask(insert, (article,))[0][0])

    def answer(self, value):
        try:
            status, body = 200, json.dumps(value())
        except psycopg2.Error as error:
            status, body = 503, json.dumps({"error": str(error)})
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode() + b"\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["migrate"]:
        migrate()
    else:
        ThreadingHTTPServer(("", 8000), Handler).serve_forever()
