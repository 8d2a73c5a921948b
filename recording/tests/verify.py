"""An independent verifier of Interlock recordings, written from docs/recording.md alone.

usage: verify.py DIRECTORY HOST_PUB [UNPACK COMMAND…]

Needs Python 3 and `openssl` (for the signatures). UNPACK COMMAND reads a zstd frame on standard input and
writes what it unpacks to on standard output; the default is `zstd -dc`.
Prints what is wrong, one line each; exits with 0 when the recording is whole and 1 when it is not.
"""

import base64
import hashlib
import os
import struct
import subprocess
import sys
import tempfile

directory, key_file = sys.argv[1:3]
unpack = sys.argv[3:] or ["zstd", "-dc"]
problems = []


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def fields(message):
    """The fields of a protobuf message, by number; the last value of each."""
    found, at = {}, 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        tag = varint()
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value = varint()
        elif kind == 1:
            value = struct.unpack_from("<Q", message, at)[0]
            at += 8
        elif kind == 2:
            length = varint()
            value = message[at : at + length]
            assert len(value) == length, "cut short"
            at += length
        else:
            raise ValueError(f"wire type {kind}")
        found[number] = value
    return found


def signed(domain, message, signature):
    with tempfile.TemporaryDirectory() as scratch:
        paths = [os.path.join(scratch, name) for name in ("message", "signature")]
        for path, content in zip(paths, (domain + b"\0" + message, signature)):
            with open(path, "wb") as file:
                file.write(content)
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key_file, "-rawin"]
        command += ["-in", paths[0], "-sigfile", paths[1]]
        return subprocess.run(command, capture_output=True).returncode == 0


def part(content, at):
    (length,) = struct.unpack_from("<I", content, at)
    value = content[at + 4 : at + 4 + length]
    assert len(value) == length, "cut short"
    return value, at + 4 + length


with open(key_file) as file:
    pem = "".join(line for line in file.read().splitlines() if "-----" not in line)
public = base64.b64decode(pem)[-32:]
host = sha256(public)

with open(os.path.join(directory, "HEAD"), "rb") as file:
    content = file.read()
checkpoint, end = part(content, 8)
if content[:8] != b"ILKHEAD1" or not signed(b"interlock recording v1 checkpoint", checkpoint, content[end:]):
    problems.append("HEAD is not signed by this host")
head = fields(checkpoint)

index, chain, previous_header = 0, sha256(b"interlock recording v1 genesis\0", public), b""
headers, sessions, begin, shipped = {}, {}, 0, {}
names = sorted(name for name in os.listdir(directory) if name.endswith((".seg", ".open")))
if os.path.exists(os.path.join(directory, "SHIPPED")):
    with open(os.path.join(directory, "SHIPPED"), "rb") as file:
        content = file.read()
    message, end = part(content, 8)
    if content[:8] != b"ILKSHIP1" or not signed(b"interlock recording v1 shipped", message, content[end:]):
        problems.append("SHIPPED is not signed by this host")
    else:
        shipped = fields(message)
        begin, index, chain, previous_header = (shipped.get(number) for number in (2, 3, 4, 5))
        # What has not been removed yet is not needed.
        names = [name for name in names if int(name.split(".")[0]) >= begin]
        if shipped.get(1) != host or index > head.get(4, 0):
            problems.append("SHIPPED is not of this recording, or HEAD is older")
at_head = chain if head.get(4, 0) == index else None
for number, name in enumerate(names, begin):
    with open(os.path.join(directory, name), "rb") as file:
        content = file.read()
    sealed = content[:8] == b"ILKSEAL1"
    header_bytes, at = part(content, 8)
    header = fields(header_bytes)
    headers[number] = sha256(header_bytes)
    if name.split(".")[0] != f"{number:012}" or header.get(3, 0) != number or header.get(2) != host:
        problems.append(f"{name} is not segment {number} of this host")
    if (header.get(4), header.get(5, b""), header.get(6, 0)) != (chain, previous_header, index):
        problems.append(f"{name} does not go on where the one before ends")
    body, footer = content[at:], {}
    if sealed:
        (length,) = struct.unpack_from("<Q", content, at)
        packed = content[at + 8 : at + 8 + length]
        footer_bytes, end = part(content, at + 8 + length)
        footer = fields(footer_bytes)
        if not signed(b"interlock recording v1 segment footer", footer_bytes, content[end:]):
            problems.append(f"{name} is not signed by this host")
        if footer.get(1) != headers[number] or footer.get(2) != sha256(packed):
            problems.append(f"{name} is not what was sealed")
        body = subprocess.run(unpack, input=packed, capture_output=True).stdout
        if len(body) != footer.get(3, 0):
            problems.append(f"{name} unpacks to {len(body)} bytes")
    at = count = 0
    while at < len(body):
        (length,) = struct.unpack_from("<I", body, at) if at + 4 <= len(body) else (len(body),)
        event, stored = body[at + 4 : at + 4 + length], body[at + 4 + length : at + 36 + length]
        at += 36 + length
        if at > len(body):
            if sealed or number + 1 != begin + len(names):
                problems.append(f"{name}: the record of event {index} is incomplete")
            break
        found = fields(event)
        if found.get(1, 0) != index:
            problems.append(f"{name}: event {found.get(1, 0)} stands where {index} should")
        elif sha256(chain, event) != stored:
            problems.append(f"{name}: event {index} was altered")
        session, sequence = found.get(4), found.get(5, 0)
        # A session can have begun in what was shipped.
        if session and sessions.get(session, sequence if shipped else 0) != sequence:
            problems.append(f"{name}: event {index} is not the next of session {session.hex()}")
        if session:
            sessions[session] = sequence + 1
        chain, index, count = stored, found.get(1, 0) + 1, count + 1
        if index == head.get(4, 0):
            at_head = chain
    if sealed and (footer.get(4, 0), footer.get(5)) != (count, chain):
        problems.append(f"{name} does not end as it was sealed")
    previous_header = headers[number]

if head.get(4, 0) > index or head.get(2, 0) not in headers:
    problems.append(f"the end is missing: {index} events, HEAD proves {head.get(4, 0)}")
elif at_head != head.get(5) or headers[head.get(2, 0)] != head.get(3) or head.get(1) != host:
    problems.append("HEAD is not of this recording")

first = shipped.get(3, 0)
print("\n".join(problems) or f"whole: {index - first} events, {len(sessions)} sessions")
sys.exit(1 if problems else 0)
