"""Receives logs and appends them to a file, one write or connection after the other.

receive.py udp|tcp|unix|unixgram ADDRESS FILE    ADDRESS is a port on 127.0.0.1 or a path

Datagrams are parted by a line feed where they have none. SIGTERM ends it, and removes the socket.
"""

import os
import signal
import socket
import sys
import threading

kind, address, file = sys.argv[1:]
family = socket.AF_UNIX if kind.startswith("unix") else socket.AF_INET
streams = kind in ("tcp", "unix")
listener = socket.socket(family, socket.SOCK_STREAM if streams else socket.SOCK_DGRAM)
if family == socket.AF_UNIX:
    os.makedirs(os.path.dirname(address), exist_ok=True)
    listener.bind(address)
else:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(address)))


def end(*_):
    if family == socket.AF_UNIX:
        os.unlink(address)
    os._exit(0)


signal.signal(signal.SIGTERM, end)
output = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def copy(stream):
    while data := stream.recv(65536):
        os.write(output, data)


if streams:
    listener.listen()
    os.write(output, b"")
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=copy, args=(stream,), daemon=True).start()
else:
    while True:
        data = listener.recv(65536)
        os.write(output, data if data.endswith(b"\n") else data + b"\n")
