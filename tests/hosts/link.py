"""Two hosts on one machine: network namespaces with a link between them that delays, loses and can
be cut. It forwards packets between two TUN devices itself, so that it needs no netem in the kernel,
and knows what it lost."""

import collections
import contextlib
import ctypes
import fcntl
import os
import random
import selectors
import struct
import subprocess
import threading
import time

from jobs import Host

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def _checked(result):
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Namespace:
    """A network namespace without a name: the kernel removes it with the last of its processes and
    file descriptors, whatever happens to the tests."""

    def __init__(self):
        with self._elsewhere():
            _checked(_libc.unshare(_CLONE_NEWNET))
            self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    @contextlib.contextmanager
    def inside(self):
        """What this thread opens and starts meanwhile belongs to the namespace."""
        with self._elsewhere():
            _checked(_libc.setns(self._fd, _CLONE_NEWNET))
            yield

    @staticmethod
    @contextlib.contextmanager
    def _elsewhere():
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            yield
        finally:
            _checked(_libc.setns(before, _CLONE_NEWNET))
            os.close(before)

    def ip(self, command):
        with self.inside():
            subprocess.run(["ip", *command.split()], check=True)

    def tun(self, name):
        """A new network interface; returns the file that its packets are read from and written to."""
        with self.inside():
            tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
        return tun

    def close(self):
        os.close(self._fd)


class Link:
    """Connects two namespaces, `delay` seconds each way; loses the fraction `loss` of packets."""

    NAMES = ("left", "right")

    def __init__(self, delay, loss, seed=0):
        self.delay, self.loss = delay, loss
        self.carried = self.lost = 0
        self._cut = False
        self._random = random.Random(seed)
        self._namespaces, self._tuns, self.hosts = [], [], []
        for number, name in enumerate(self.NAMES, 1):
            namespace, address = Namespace(), f"10.77.0.{number}"
            self._namespaces.append(namespace)
            self._tuns.append(namespace.tun("link"))
            namespace.ip("link set dev lo up")
            namespace.ip("link set dev link addrgenmode none")  # Gloo is to use IPv4
            namespace.ip("link set dev link up")
            namespace.ip(f"address add {address}/24 dev link")
            self.hosts.append(Host(name, address, "link", namespace.inside))
        self._ended, self._end = os.pipe()
        self._thread = threading.Thread(target=self._forward, daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def cut(self):
        """Loses everything meanwhile."""
        self._cut = True
        try:
            yield
        finally:
            self._cut = False

    def _forward(self):
        other = dict(zip(self._tuns, reversed(self._tuns)))
        under_way = collections.deque()  # (when it arrives, where, the packet)
        with selectors.DefaultSelector() as selector:
            for file in (*self._tuns, self._ended):
                selector.register(file, selectors.EVENT_READ)
            while True:
                wait = under_way[0][0] - time.monotonic() if under_way else None
                for key, _ in selector.select(wait if wait is None else max(wait, 0)):
                    if key.fd == self._ended:
                        return
                    with contextlib.suppress(BlockingIOError):
                        packet = os.read(key.fd, 65536)
                        if self._cut or self._random.random() < self.loss:
                            self.lost += 1
                        else:
                            under_way.append((time.monotonic() + self.delay, other[key.fd], packet))
                while under_way and under_way[0][0] <= time.monotonic():
                    _, file, packet = under_way.popleft()
                    os.write(file, packet)
                    self.carried += 1

    def close(self):
        os.close(self._end)
        self._thread.join()
        for file in (self._ended, *self._tuns):
            os.close(file)
        for namespace in self._namespaces:
            namespace.close()
