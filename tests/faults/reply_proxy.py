"""A TCP proxy in front of a store: what is asked always arrives; what is answered may be lost, or late."""

import contextlib
import socket
import threading


class ReplyProxy:
    """Listens on a port of its own. `address` may be changed, and the server behind it may come and go.

    `drop_next` answers are lost, after `drop_after` more have passed; each answer waits for `delay_s`. What was asked when an
    answer was lost is kept in `lost`.
    """

    def __init__(self, address):
        self.delay_s = 0.0
        self.drop_next = 0
        self.drop_after = 0
        self.lost = []
        self.address = address
        self._open = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self.address, timeout=10)
                far.settimeout(None)
            except OSError:
                near.close()  # the server is away: so says a closed connection
                continue
            self._open |= {near, far}
            asked = [b""]
            threading.Thread(target=self._pump, args=(near, far, asked, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, asked, True), daemon=True).start()

    def _pump(self, source, target, asked, is_reply):
        try:
            while data := source.recv(65_536):
                if not is_reply:
                    asked[0] = data[:400]
                elif self._is_lost(asked[0]):
                    break
                if is_reply and self.delay_s:
                    threading.Event().wait(self.delay_s)
                target.sendall(data)
        except OSError:
            pass  # the other side has gone: so does this one
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            if is_reply:
                end.close()
                self._open.discard(end)

    def _is_lost(self, asked):
        if not self.drop_next:
            return False
        if self.drop_after:
            self.drop_after -= 1
            return False
        self.drop_next -= 1
        self.lost.append(asked)
        return True

    def cut(self):
        """The server is gone: no connection lives, none can be made."""
        for end in (self._listener, *list(self._open)):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
