"""Fields, manifest and segment secret of a .cordon package: sections 1, 6 and 7 of crates/package/SPEC.md."""
import struct

MANIFEST, SECRET, WEIGHTS, PUBLIC_WEIGHTS, MODEL, DATA = range(1, 7)
ELEMENTS = {*range(1, 8), *range(9, 14), 16}


class Refused(Exception):
    """Carries the class of section 10."""


def need(condition, what):
    if not condition:
        raise Refused(what)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        need(n <= len(self.data) - self.at, "malformed")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, code):
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def u8(self): return self.number("B")
    def u16(self): return self.number("H")
    def u32(self): return self.number("I")
    def u64(self): return self.number("Q")

    def bool(self):
        value = self.u8()
        need(value < 2, "malformed")
        return value == 1

    def count(self, limit):
        n = self.u32()
        need(n <= limit, "limit")
        need(n <= len(self.data) - self.at, "malformed")
        return n

    def bytes(self, limit):
        return self.take(self.count(limit))

    def string(self, limit=1024):
        try:
            return self.bytes(limit).decode()
        except UnicodeDecodeError:
            raise Refused("malformed") from None

    def option(self, read):
        return read() if self.bool() else None

    def list(self, limit, read):
        return [read() for _ in range(self.count(limit))]

    def choice(self, n):
        value = self.u8()
        need(value < n, "malformed")
        return value

    def finish(self):
        need(self.at == len(self.data), "malformed")


# Sections 6 and 7: manifest and segment secret.


def read_manifest(data, d):
    r = Reader(data)
    indices = lambda: r.list(4096, r.u32)
    def value():
        elem = r.u8()
        need(elem in ELEMENTS, "malformed")
        return {"elem": elem, "shape": r.list(8, r.u32), "name": r.option(r.string)}
    def image():
        p = {"input": r.u32(), "height": r.u32(), "width": r.u32(), "resize": r.u32() if r.choice(2) else None,
             "channels": (3, 3, 1)[r.choice(3)], "layout": r.choice(1), "scale": r.number("f")}
        p["mean"], p["std"] = ([r.number("f") for _ in range(p["channels"])] for _ in range(2))
        return p
    m = {"values": r.list(4096, value), "inputs": indices(), "outputs": indices()}
    m["segments"] = r.list(64, lambda: {"secure": r.choice(2) == 1, "in": indices(), "out": indices(), "kept_in": indices(),
                                        "kept_out": indices(), "least": r.u64(), "resident": r.u64(),
                                        "f16": r.bool()})
    m["image"], m["axis"], m["normalisation"] = r.option(image), r.option(r.u32), r.choice(2)
    m["plan"] = r.string(65536)
    r.finish()
    try:
        ok = rules(m, d)
    except IndexError:
        ok = False
    need(ok, "manifest")
    return m


def rules(m, d):
    """Rules 1 to 11 of section 6, in one expression each where that is readable."""
    values, segments, kinds = m["values"], m["segments"], {(s["kind"], s["segment"]) for s in d["sections"]}
    lists = [m["inputs"], m["outputs"], *(s[k] for s in segments for k in ("in", "out", "kept_in", "kept_out"))]
    ok = all(len(set(x)) == len(x) and all(v < len(values) for v in x) for x in lists)
    ok = ok and bool(values and segments and m["inputs"] and m["outputs"])
    outside, inside, secret, used, used_inside = set(m["inputs"]), set(), set(), set(m["outputs"] + m["inputs"]), set()
    for s in segments:
        secure, produced = s["secure"], set(s["out"]) | set(s["kept_out"])
        ok = ok and bool(produced) and set(s["in"]) <= outside and set(s["kept_in"]) <= inside
        ok = ok and not produced & (outside | inside) and not (secure and set(s["in"]) & secret)
        ok = ok and (secure or not (s["kept_in"] or s["kept_out"] or s["resident"] or s["f16"])) and s["least"] <= s["resident"]
        touched = [v for k in ("in", "out", "kept_in", "kept_out") for v in s[k]]
        ok = ok and (not secure or all(values[v]["elem"] in (1, 2, 3, 7, 9) for v in touched))
        outside |= set(s["out"])
        inside |= set(s["kept_out"])
        secret |= produced if secure else set()
        used |= set(s["in"])
        used_inside |= set(s["kept_in"])
    interface = set(m["inputs"] + m["outputs"])
    ok = ok and set(m["outputs"]) <= outside <= used and inside <= used_inside and len(outside | inside) == len(values)
    names = [v["name"] for v in values if v["name"] is not None]
    ok = ok and len(set(names)) == len(names) and "" not in names
    ok = ok and all((v["name"] is not None) == (i in interface) for i, v in enumerate(values))
    for v in values:
        elements = 1
        for extent in v["shape"]:
            elements *= extent
        ok = ok and 1 <= elements <= 1 << 31
    ok = ok and (m["axis"] is None or m["axis"] < len(values[m["outputs"][0]]["shape"]))
    if p := m["image"]:
        sides, finite = [p["height"], p["width"], p["resize"] or 1], lambda x: abs(x) < float("inf")
        ok = ok and all(1 <= n <= 8192 for n in sides) and (p["resize"] is None or p["resize"] >= max(sides[:2]))
        ok = ok and all(map(finite, p["mean"])) and all(finite(x) and x > 0 for x in [*p["std"], p["scale"]])
        shape = values[p["input"]]["shape"]
        ok = ok and p["input"] in m["inputs"] and len(shape) == 4 and shape[1:] == [p["channels"], *sides[:2]]
        ok = ok and values[p["input"]]["elem"] == 1
    ok = ok and all(((SECRET if s["secure"] else MODEL), i) in kinds for i, s in enumerate(segments))
    ok = ok and all(segment < len(segments) for _, segment in kinds)
    if ok and d["policy"] != 0:
        made = [s for s in segments if s["secure"] and m["outputs"][0] in s["out"]]
        ok = len(m["outputs"]) == 1 and m["axis"] is not None and values[m["outputs"][0]]["elem"] == 1 and bool(made)
    return ok


def read_secret(data):
    r = Reader(data)
    def program():
        need(r.u8() == 1, "unsupported")
        return {"batch": r.u32(), "peak": r.u64(), "bytes": len(r.bytes(1 << 26))}
    secret = {"programs": r.list(16, program), "weight_table_bytes": len(r.bytes(1 << 26))}
    names, labels = r.list(1 << 17, r.string), r.list(1 << 17, r.string)
    r.finish()
    need(secret["programs"], "malformed")
    return secret | {"names": len(names), "labels": len(labels)}
