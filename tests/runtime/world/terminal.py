"""Runs a command in a terminal and talks to it.

usage: terminal.py STEP... -- COMMAND...

A step is `expect:TEXT`, `send:TEXT` (with Python's escapes), `size:ROWSxCOLUMNS` or `signal:NUMBER`. Prints what the
terminal showed, then whether its settings are what they were, then how the command ended.
"""

import codecs, fcntl, os, pty, select, signal, struct, sys, termios, time

split = sys.argv.index("--")
steps, command = sys.argv[1:split], sys.argv[split + 1:]
master, slave = pty.openpty()


def size(text):
    rows, columns = (int(part) for part in text.split("x"))
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


size("31x97")
before = termios.tcgetattr(slave)
child = os.fork()
if child == 0:
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(slave, number)
    os.closerange(3, 256)
    os.execvp(command[0], command)

shown = b""
seen = 0
ended = None
deadline = time.monotonic() + 60
while time.monotonic() < deadline:
    if select.select([master], [], [], 0.05)[0]:
        shown += os.read(master, 65536)
        continue
    if ended is not None:
        break
    if steps:
        kind, text = steps[0].split(":", 1)
        text = codecs.decode(text, "unicode_escape")
        if kind == "expect":
            place = shown.find(text.encode("latin-1"), seen)
            if place < 0:
                if os.waitpid(child, os.WNOHANG)[0]:
                    break
                continue
            seen = place + len(text)
        elif kind == "send":
            os.write(master, text.encode("latin-1"))
        elif kind == "size":
            size(text)
            os.kill(child, signal.SIGWINCH)
        elif kind == "signal":
            os.kill(child, int(text))
        steps.pop(0)
        continue
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        ended = os.waitstatus_to_exitcode(status)

print(shown.decode("utf-8", "replace").replace("\r", ""))
print("settings:", "kept" if termios.tcgetattr(slave) == before else "changed")
print("left:", steps)
print("code:", ended)
