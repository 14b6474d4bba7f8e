#!/usr/bin/env python3
"""A name server that answers every question with 10.0.2.2, and that can be slow, silent or broken."""

import argparse
import pathlib
import socket
import struct
import threading

OK, SERVFAIL, NXDOMAIN = 0, 2, 3


def answer(query, code):
    end = query.index(b"\0", 12) + 5
    question, kind = query[12:end], struct.unpack(">H", query[end - 4:end - 2])[0]
    address = code == OK and kind == 1
    head = query[:2] + struct.pack(">HHHHH", 0x8580 | code, 1, int(address), 0, 0)
    body = b"\xc0\x0c" + struct.pack(">HHIH4s", 1, 1, 0, 4, socket.inet_aton("10.0.2.2")) if address else b""
    return head + question + body


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--slow", type=float, default=0, help="answer after so many seconds")
    parser.add_argument("--mute-while", type=pathlib.Path, help="answer nothing while this file is there")
    parser.add_argument("--servfail", type=int, default=0, help="fail the first so many questions")
    parser.add_argument("--nxdomain", action="store_true", help="there is no such name")
    options = parser.parse_args()
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("::", 53))
    asked = 0
    while True:
        query, client = server.recvfrom(4096)
        if options.mute_while and options.mute_while.exists():
            continue
        asked += 1
        code = NXDOMAIN if options.nxdomain else SERVFAIL if asked <= options.servfail else OK
        threading.Timer(options.slow, server.sendto, (answer(query, code), client)).start()


if __name__ == "__main__":
    main()
