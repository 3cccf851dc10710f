"""What is written to a terminal, by a pseudo terminal whose other end a test reads."""

import os


def read_terminal(leader: int) -> bytes:
    """All that was written to a terminal of `pty.openpty()` until nobody has it open any more; closes this end.

    One `os.read` gives what the kernel has passed on so far, which on a busy machine is only a part.
    """
    written = b""
    try:
        while chunk := os.read(leader, 65536):
            written += chunk
    except OSError:  # how Linux says that nobody has the terminal open any more
        pass
    finally:
        os.close(leader)
    return written
