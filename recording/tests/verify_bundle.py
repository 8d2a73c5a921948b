"""An independent verifier of Interlock evidence bundles, written from docs/proof.md and docs/recording.md alone.

usage: verify_bundle.py BUNDLE COLLECTOR_VKEY [UNPACK COMMAND…]

Needs Python 3 and `openssl` (for the signatures). UNPACK COMMAND reads a zstd frame on standard input and
writes what it unpacks to on standard output; the default is `zstd -dc`.
Prints what is wrong, one line each; exits with 0 when the bundle is whole and 1 when it is not.
"""

import base64
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile

bundle_file, vkey_file = sys.argv[1:3]
unpack = sys.argv[3:] or ["zstd", "-dc"]
problems = []


def check(holds, what):
    if not holds:
        problems.append(what)
    return holds


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


def signed(key, message, signature):
    """Whether the ed25519 key (32 bytes) signed the message."""
    # RFC 8410: the fixed beginning of a SubjectPublicKeyInfo, then the key.
    der = bytes.fromhex("302a300506032b6570032100") + key
    with tempfile.TemporaryDirectory() as scratch:
        paths = [os.path.join(scratch, name) for name in ("key", "message", "signature")]
        for path, content in zip(paths, (der, message, signature)):
            with open(path, "wb") as file:
                file.write(content)
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", paths[0], "-rawin"]
        command += ["-in", paths[1], "-sigfile", paths[2]]
        return subprocess.run(command, capture_output=True).returncode == 0


def part(content, at):
    (length,) = struct.unpack_from("<I", content, at)
    value = content[at + 4 : at + 4 + length]
    assert len(value) == length, "cut short"
    return value, at + 4 + length


def header(name, size):
    """What stands before a file of the archive; nothing in it is left to choose."""
    numbers = (b"%07o\0" % 0o644, b"%07o\0" % 0, b"%07o\0" % 0, b"%011o\0" % size, b"%011o\0" % 0)
    before, after = name.encode().ljust(100, b"\0") + b"".join(numbers), (b"0" + bytes(100) + b"ustar\0" + b"00").ljust(356, b"\0")
    return before + b"%07o\0" % sum(before + b" " * 8 + after) + after


def files_of(archive):
    """The plain files of the archive; anything else in it is a problem."""
    files, at = {}, 0
    while archive[at : at + 512].strip(b"\0"):
        head = archive[at : at + 512]
        name, size = head[:100].rstrip(b"\0").decode(), int(head[124:135], 8)
        end = at + 512 + size
        content, at = archive[at + 512 : end], at + 512 + (size + 511) // 512 * 512
        plain = name.startswith("evidence/") and ".." not in name and name not in files
        plain = plain and head == header(name, size) and len(content) == size and not archive[end:at].strip(b"\0")
        check(plain, f"{name!r} is no file of a bundle")
        files[name] = content
    check(archive[at:] == bytes(1024), "the archive does not end as it should")
    return files


def note_of(content, name, key_id, key):
    """The text of a signed note that the key signed."""
    text, lines = content.decode().rsplit("\n\n", 1)
    text += "\n"
    for line in lines.splitlines():
        dash, of, value = line.split(" ")
        value = base64.b64decode(value)
        if dash == "\u2014" and of == name and value[:4] == key_id:
            return text if signed(key, text.encode(), value[4:]) else None
    return None


def included(leaf, index, size, proof, root):
    """RFC 9162, section 2.1.3.2."""
    if index >= size:
        return False
    at, last, value = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            value = sha256(b"\1", sibling, value)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            value = sha256(b"\1", value, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and value == root


def segment_events(name, content, key, taken, begins):
    """The events of a segment, and where the next one begins."""
    assert content[:8] == b"ILKSEAL1", "not a sealed segment"
    header_bytes, at = part(content, 8)
    header = fields(header_bytes)
    (length,) = struct.unpack_from("<Q", content, at)
    packed = content[at + 8 : at + 8 + length]
    footer_bytes, end = part(content, at + 8 + length)
    footer = fields(footer_bytes)
    domain = b"interlock recording v1 segment footer\0"
    check(signed(key, domain + footer_bytes, content[end:]), f"{name} is not signed by its host")
    check(header.get(2) == sha256(key) and header.get(1) == 1, f"{name} is another host's")
    check(footer.get(1) == sha256(header_bytes) and footer.get(2) == sha256(packed), f"{name} is not what was sealed")
    start = (header.get(3, 0), header.get(6, 0), header.get(4), header.get(5, b""))
    check(begins is None or begins == start, f"{name} does not go on where the one before ends")
    body = subprocess.run(unpack, input=packed, capture_output=True).stdout
    check(len(body) == footer.get(3, 0), f"{name} unpacks to {len(body)} bytes")
    index, chain, events, at = start[1], start[2], [], 0
    while at < len(body):
        (length,) = struct.unpack_from("<I", body, at)
        event, stored = body[at + 4 : at + 4 + length], body[at + 4 + length : at + 36 + length]
        at += 36 + length
        found = fields(event)
        check(found.get(1, 0) == index and sha256(chain, event) == stored, f"{name}: event {index} was altered")
        events.append(found)
        chain, index = stored, index + 1
    check((footer.get(4, 0), footer.get(5)) == (len(events), chain), f"{name} does not end as it was sealed")
    said = (taken.get(2, 0), taken.get(3, 0), taken.get(4, 0), taken.get(5), taken.get(8))
    check(said == (start[0], start[1], len(events), sha256(header_bytes), chain), f"{name} is not what was taken")
    return events, (start[0] + 1, index, chain, sha256(header_bytes))


def main():
    with open(vkey_file) as file:
        vkey = file.read().strip()
    name, key_id, key = vkey.split("+", 2)
    key_id, key = bytes.fromhex(key_id), base64.b64decode(key)
    assert sha256(name.encode() + b"\n" + key)[:4] == key_id and key[:1] == b"\1", "not a verifier key"
    key = key[1:]
    with open(bundle_file, "rb") as file:
        files = files_of(file.read())

    # The list of files, and who signed it.
    manifest = files["evidence/manifest.json"]
    text = f"interlock evidence manifest v1\n{hashlib.sha256(manifest).hexdigest()}\n"
    check(note_of(files["evidence/manifest.sig"], name, key_id, key) == text, "the manifest is not signed")
    manifest = json.loads(manifest)
    check(manifest["format"] == "interlock evidence bundle v1", "another format")
    listed = {file["name"]: (file["bytes"], file["sha256"]) for file in manifest["files"]}
    there = {
        of: (len(content), hashlib.sha256(content).hexdigest())
        for of, content in files.items()
        if of not in ("evidence/manifest.json", "evidence/manifest.sig")
    }
    check(listed == there, "the files are not those of the manifest")
    check(files["evidence/collector.vkey"].decode().strip() == vkey, "another collector's")

    # The ledger.
    checkpoint = note_of(files["evidence/checkpoint"], name, key_id, key)
    if not check(checkpoint, "the checkpoint is not signed"):
        return
    origin, size, root = checkpoint.split("\n")[:3]
    size, root = int(size), base64.b64decode(root)
    check(origin == name, "the checkpoint is another ledger's")
    hosts, taken, deleted, before = {}, {}, set(), -1
    for line in files["evidence/ledger.jsonl"].splitlines():
        line = json.loads(line)
        entry = base64.b64decode(line["entry"])
        proof = [base64.b64decode(value) for value in line["proof"]]
        if not check(included(sha256(b"\0", entry), line["index"], size, proof, root), f"entry {line['index']} is not proven"):
            continue
        check(line["index"] > before, "entries are out of order")
        before = line["index"]
        entry = fields(entry)
        if 10 in entry:
            begun = fields(entry[10])
            check((begun[1].decode(), begun[2]) == (name, key), "the ledger began under another key")
        elif 11 in entry:
            enrolled = fields(entry[11])
            check(sha256(enrolled[2]) == enrolled[1], "a host's id is not that of its key")
            hosts[enrolled[1]] = enrolled[2]
        elif 13 in entry:
            body = fields(entry[13])
            check((body[1], body.get(2, 0)) not in taken, "a segment was taken twice")
            taken[body[1], body.get(2, 0)] = body
        elif 18 in entry:
            body = fields(entry[18])
            deleted.add((body[1], body.get(2, 0)))
    for host, host_key in hosts.items():
        pem = files[f"evidence/hosts/{host.hex()}.pub"].decode().splitlines()
        check(base64.b64decode("".join(pem[1:-1]))[-32:] == host_key, "a host's key is not the one that was enrolled")

    # The segments and the sessions in them.
    chosen = {(bytes.fromhex(of["host"]), bytes.fromhex(of["session"])): None for of in manifest["sessions"]}
    check(chosen, "no session")
    places, begins, last = set(), None, None
    for (host, number), body in sorted(taken.items()):
        of = f"evidence/segments/{host.hex()}/{number:012}.seg"
        if of not in files:
            check((host, number) in deleted, f"{of} is missing")
            continue
        places.add(of)
        content = files[of]
        check((sha256(content), len(content)) == (body.get(6), body.get(7)), f"{of} is not the file that was taken")
        if last != (host, number - 1):
            begins = None
            for session, state in chosen.items():
                check(session[0] != host or state is None or state == "ended", "a session goes on in a segment that is missing")
        events, begins = segment_events(of, content, hosts[host], body, begins)
        last = (host, number)
        for event in events:
            if 10 in event:
                # The agent started: what was open has ended with the one before.
                for session, state in chosen.items():
                    if session[0] == host and state is not None:
                        chosen[session] = "ended"
            session = (host, event.get(4))
            if session in chosen:
                sequence = event.get(5, 0)
                check(chosen[session] == (None if 20 in event else sequence), f"a session's event {sequence} is out of place")
                chosen[session] = "ended" if 27 in event else sequence + 1
    for session, state in chosen.items():
        check(state == "ended", f"session {session[1].hex()} is not whole")

    known = {"manifest.json", "manifest.sig", "collector.vkey", "checkpoint", "ledger.jsonl", "consistency.jsonl", "viewer.html"}
    known = {f"evidence/{of}" for of in known} | {f"evidence/hosts/{host.hex()}.pub" for host in hosts} | places
    check(set(files) <= known, "there are files that have no place in a bundle")
    return f"whole: {len(chosen)} sessions, {len(places)} segments, ledger of {size} entries"


try:
    whole = main()
except Exception as error:  # What cannot be read is not whole either.
    problems.append(f"cannot be read: {error!r}")
print("\n".join(problems) or whole)
sys.exit(1 if problems else 0)
