#!/usr/bin/env python3
"""Second reader of .cordon packages, written from crates/package/SPEC.md.

  read_package.py PACKAGE --device FILE [--grant FILE] [--now T] [--minimum V] [--development refused]
  read_package.py --vectors FOLDER

Prints a JSON summary and exits 0, or prints the class of the defect and exits 1. Needs the package `cryptography`.
"""
import argparse, base64, hashlib, hmac, json, pathlib, struct, sys

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from package_manifest import DATA, MANIFEST, MODEL, OPTIONAL, PUBLIC_WEIGHTS, SECRET, WEIGHTS
from package_manifest import Reader, Refused, need, read_manifest, read_secret


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def label(word):
    return sha(word.encode())


# Sections 2, 3 and 5: header.


def read_policy(r):
    policy = r.choice(4)
    if policy == 2:
        need(r.u16() >= 1, "malformed")
    if policy in (1, 2):
        need(r.u8() <= 6, "malformed")
    return policy


def read_description(data, format_):
    r = Reader(data)
    d = {"format": format_, "id": r.take(32), "owner": r.take(32), "name": r.string(), "version": r.u64(),
         "not_after": r.option(r.u64), "max_requests": r.option(r.u64), "development": r.bool()}
    if format_ == 1:
        policy = read_policy(r)
        d["policies"] = [policy] if policy else []
    else:
        d["policies"] = r.list(4096, lambda: read_policy(r))
        need(not d["policies"] or any(d["policies"]), "malformed")
    d["sections"] = r.list(256, lambda: read_entry(r, format_))
    r.extensions(format_)
    r.finish()
    need(d["name"], "malformed")
    keys = [(s["kind"], s["segment"]) for s in d["sections"]]
    need(all(a < b for a, b in zip(keys, keys[1:])) and keys and keys[0] == (MANIFEST, 0), "malformed")
    for kind, segment in keys:
        need(kind != WEIGHTS or (SECRET, segment) in keys, "malformed")
        need(kind != DATA or (MODEL, segment) in keys, "malformed")
        need(kind != MODEL or (SECRET, segment) not in keys, "malformed")
    return d


def read_entry(r, format_):
    kind = r.u8()
    need(1 <= kind <= 6 or format_ > 1 and kind in OPTIONAL, "unsupported")
    segment, length, root = r.u16(), r.u64(), r.take(32)
    need(length > 0, "malformed")
    need(length <= {MANIFEST: 1 << 20, SECRET: 1 << 26}.get(kind, 1 << 40), "limit")
    need(segment < (1 if kind in (MANIFEST, PUBLIC_WEIGHTS) else 64), "malformed")
    tag = 16 if kind in (SECRET, WEIGHTS) else 0
    return {"kind": kind, "segment": segment, "length": length, "root": root, "tag": tag, "chunks": -(-length // 65536)}


def read_stanzas(r, segments):
    stanzas = []
    for _ in range(r.count(256)):
        kind, body = r.u16(), Reader(r.bytes(65536))
        if kind == 1:
            stanzas.append((body.take(8), [(body.take(32), body.take(48)) for _ in range(segments)]))
        elif kind == 2:
            body.bytes(64), body.string()
        else:
            continue
        body.finish()
    return stanzas


def secure_segments(d):
    return [s["segment"] for s in d["sections"] if s["kind"] == SECRET]


def read_header(data):
    magic = b"\x89CORDON\n"
    if len(data) < 16:
        raise Refused("truncated" if data[:8] == magic[: len(data[:8])] else "magic")
    need(data[:8] == magic, "magic")
    format_, suite, length = struct.unpack("<HHI", data[8:16])
    need(format_ in (1, 2) and suite == 1, "unsupported")
    need(length <= 1 << 20, "limit")
    need(length >= 80, "malformed")
    need(len(data) >= length, "truncated")
    r = Reader(data[16 : length - 64])
    description = r.bytes(1 << 20)
    d = read_description(description, format_)
    d["stanzas"] = read_stanzas(r, len(secure_segments(d)))
    r.finish()
    d["length"], d["digest"] = length, sha(data[:length])
    d["binding"] = sha(label("cordon/1 description"), data[8:12], description)
    return d


def check_layout(data, d):
    end, gaps = d["length"], []
    for s in d["sections"]:
        start = -(-end // 4096) * 4096 if s["kind"] == DATA else end
        gaps.append((end, start))
        s["offset"], s["stored"] = start, s["length"] + s["tag"] * s["chunks"]
        end = start + s["stored"] + 32 * s["chunks"]
    need(len(data) >= end, "truncated")
    need(len(data) <= end and not any(any(data[a:b]) for a, b in gaps), "trailing")


def small_order(point):
    """Whether eight times the point is the neutral one: y is 0 or 1 or -1, or the doubled point has y = 0."""
    p = (1 << 255) - 19
    y, d = int.from_bytes(point, "little") % (1 << 255), -121665 * pow(121666, -1, p)
    return y % p in (0, 1, p - 1) or (d * y**4 + 2 * y**2 - 1) % p == 0


def check_signature(owner, word, signed, signature):
    need(not small_order(owner) and not small_order(signature[:32]), "signature")
    try:
        Ed25519PublicKey.from_public_bytes(owner).verify(signature, label(word) + sha(signed))
    except (InvalidSignature, ValueError):
        raise Refused("signature") from None


# Section 4: chunks.


def tree(leaves):
    if len(leaves) == 1:
        return leaves[0]
    k = 1 << ((len(leaves) - 1).bit_length() - 1)
    return sha(b"\1", tree(leaves[:k]), tree(leaves[k:]))


def section(data, s):
    """Stored chunks, checked against the root; the leaf hashes in the file must be theirs."""
    stored = data[s["offset"] : s["offset"] + s["stored"]]
    stride = 65536 + s["tag"]
    chunks = [stored[i : i + stride] for i in range(0, len(stored), stride)]
    leaves = [sha(b"\0", c) for c in chunks]
    end = s["offset"] + s["stored"]
    need(tree(leaves) == s["root"] and b"".join(leaves) == data[end : end + 32 * len(leaves)], "digest")
    return chunks


def decrypt(chunks, s, package_id, segment_key):
    place = package_id + struct.pack("<BH", s["kind"], s["segment"])
    aead = AESGCM(hkdf_expand(hkdf_extract(b"", segment_key), label("cordon/1 chunk key") + place, 32))
    try:
        return b"".join(aead.decrypt(struct.pack(">QI", 0, i), c, place + struct.pack("<II", i, len(chunks)))
                        for i, c in enumerate(chunks))
    except InvalidTag:
        raise Refused("chunk") from None


# RFC 5869, and RFC 9180 base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.


def hkdf_extract(salt, ikm):
    return hmac.digest(salt or bytes(32), ikm, "sha256")


def hkdf_expand(prk, info, n):
    assert n <= 32
    return hmac.digest(prk, info + b"\1", "sha256")[:n]


def hpke_open(private, enc, info, ciphertext):
    kem, suite = b"KEM\0\x20", b"HPKE\0\x20\0\1\0\2"
    extract = lambda suite, salt, name, ikm: hkdf_extract(salt, b"HPKE-v1" + suite + name + ikm)
    expand = lambda suite, prk, name, info, n: hkdf_expand(prk, struct.pack(">H", n) + b"HPKE-v1" + suite + name + info, n)
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(enc))
        shared = expand(kem, extract(kem, b"", b"eae_prk", shared), b"shared_secret", enc + public, 32)
        context = b"\0" + extract(suite, b"", b"psk_id_hash", b"") + extract(suite, b"", b"info_hash", info)
        secret = extract(suite, shared, b"secret", b"")
        key, nonce = expand(suite, secret, b"key", context, 32), expand(suite, secret, b"base_nonce", context, 12)
        return AESGCM(key).decrypt(nonce, ciphertext, b"")
    except (InvalidTag, ValueError):
        raise Refused("unwrap") from None


def unwrap(d, stanzas, private):
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    hint = sha(label("cordon/1 recipient hint"), d["id"], public)[:8]
    wraps = next((w for h, w in stanzas if h == hint), None)
    need(wraps is not None, "recipient")
    info = label("cordon/1 segment key") + d["owner"] + d["binding"]
    return {segment: hpke_open(private, enc, info + struct.pack("<H", segment), wrapped)
            for segment, (enc, wrapped) in zip(secure_segments(d), wraps)}


# Sections 8 and 9: keys and grants.


def key_text(text, prefix, size):
    upper = prefix.isupper()
    digits = text.removeprefix(prefix) if upper else text.removeprefix(prefix).upper()
    try:
        data = base64.b32decode(digits + "=" * (-len(digits) % 8))
    except ValueError:
        raise Refused("key") from None
    payload, written = data[:size], base64.b32encode(data).decode().rstrip("=")
    need(text == prefix + (written if upper else written.lower()) and len(data) == size + 4, "key")
    need(data[size:] == sha(b"cordon/1 key text", struct.pack("<Q", len(prefix)), prefix.encode(), payload)[:4], "key")
    return payload


def device_file(path):
    lines = [x for x in path.read_text().splitlines() if x.strip() and not x.startswith("#")]
    secrets = [key_text(x, "CORDON-DEVICE-SECRET-", 34) for x in lines if not x.startswith("owner ")]
    owners = [key_text(x.removeprefix("owner "), "cordonowner1", 32) for x in lines if x.startswith("owner ")]
    need(len(secrets) == 1 and owners and len(set(owners)) == len(owners), "key")
    secret = secrets[0]
    need(secret[:2] == b"\1\1", "unsupported")
    return X25519PrivateKey.from_private_bytes(secret[2:]), owners


def read_grant(data, d, now, accept_development):
    need(data[:8] == b"\x89CGRANT\n", "magic")
    need(len(data) >= 16, "truncated")
    format_, suite, length = struct.unpack("<HHI", data[8:16])
    need(format_ in (1, 2) and suite == 1, "unsupported")
    need(length <= 1 << 20, "limit")
    need(len(data) >= length, "truncated")
    need(len(data) <= length, "trailing")
    need(length >= 80, "malformed")
    check_signature(d["owner"], "cordon/1 grant signature", data[:-64], data[-64:])
    r = Reader(data[16:-64])
    need(r.take(32) == d["id"] and r.take(32) == d["digest"], "other-package")
    number, not_after = (0, None) if format_ == 1 else (r.u64(), r.option(r.u64))
    development = r.bool()
    stanzas = read_stanzas(r, len(secure_segments(d)))
    r.extensions(format_)
    r.finish()
    need(now is None or not_after is None or now <= not_after, "expired")
    need(accept_development or not development, "development")
    return stanzas


def read(data, device, grant=None, now=None, minimum=0, accept_development=True):
    private, owners = device
    d = read_header(data)
    check_layout(data, d)
    need(d["owner"] in owners, "owner")
    check_signature(d["owner"], "cordon/1 header signature", data[: d["length"] - 64], data[d["length"] - 64 : d["length"]])
    need(now is None or d["not_after"] is None or now <= d["not_after"], "expired")
    need(d["version"] >= minimum, "rollback")
    need(accept_development or not d["development"], "development")
    stanzas = d["stanzas"] if grant is None else read_grant(grant, d, now, accept_development)
    m = read_manifest(b"".join(section(data, d["sections"][0])), d)
    stored = [section(data, s) for s in d["sections"]]
    keys = unwrap(d, stanzas, private)
    secrets = {}
    for s, chunks in zip(d["sections"], stored):
        if s["kind"] in (SECRET, WEIGHTS):
            plain = decrypt(chunks, s, d["id"], keys[s["segment"]])
            if s["kind"] == SECRET:
                secrets[s["segment"]] = read_secret(plain, d, m, s["segment"])
    sections = [{k: s[k] for k in ("kind", "segment", "length", "chunks", "offset")} for s in d["sections"]]
    return {"format": d["format"], "package_id": d["id"].hex(), "name": d["name"], "version": d["version"], "development": d["development"],
            "stanzas": len(d["stanzas"]), "sections": sections, "segments": len(m["segments"]), "secrets": secrets}


def run_vectors(folder):
    """Runs every list in the folder and in those below it, which hold older formats."""
    wrong = cases = 0
    for path in sorted(folder.rglob("*.txt")):
        for line in path.read_text().splitlines():
            if not line.strip() or line.startswith("#"):
                continue
            file, expected, *options = line.split()
            got = run_vector(path.parent, file, dict(x.split("=", 1) for x in options))
            cases += 1
            if got != expected:
                wrong += 1
                print(f"{path.parent / file}: expected {expected}, got {got}", file=sys.stderr)
    print(f"{cases - wrong} passed, {wrong} failed")
    return 1 if wrong or not cases else 0


def run_vector(folder, file, o):
    try:
        read((folder / file).read_bytes(), device_file(folder / o.get("device", "device.key")),
             (folder / o["grant"]).read_bytes() if "grant" in o else None, int(o.get("now", 3_000_000_000)),
             int(o.get("minimum", 7)), o.get("development") != "refused")
    except Refused as refused:
        return str(refused)
    return "ok"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", nargs="?", type=pathlib.Path)
    parser.add_argument("--vectors", type=pathlib.Path)
    parser.add_argument("--device", type=pathlib.Path)
    parser.add_argument("--grant", type=pathlib.Path)
    parser.add_argument("--now", type=int)
    parser.add_argument("--minimum", type=int, default=0)
    parser.add_argument("--development", choices=["accepted", "refused"], default="accepted")
    a = parser.parse_args()
    if a.vectors:
        return run_vectors(a.vectors)
    if not (a.package and a.device):
        parser.error("give PACKAGE and --device, or --vectors")
    try:
        summary = read(a.package.read_bytes(), device_file(a.device), a.grant and a.grant.read_bytes(), a.now, a.minimum,
                       a.development == "accepted")
    except Refused as refused:
        print(refused)
        return 1
    print(json.dumps(summary, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
