"""Fields, manifest and segment secret of a .cordon package: sections 1, 6 and 7 of crates/package/SPEC.md."""
import math, struct

MANIFEST, SECRET, WEIGHTS, PUBLIC_WEIGHTS, MODEL, DATA = range(1, 7)
OPTIONAL = range(128, 256)
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

    def extensions(self, format_):
        """Skips what format 2 has at the end of a structure."""
        last = -1
        for _ in range(self.count(64) if format_ > 1 else 0):
            tag = self.u16()
            need(tag > last, "malformed")
            self.bytes(65536)
            need(tag < 0x8000, "unsupported")
            last = tag

    def finish(self):
        need(self.at == len(self.data), "malformed")


# Sections 6 and 7: manifest and segment secret.


def read_manifest(data, d):
    r = Reader(data)
    indices = lambda: r.list(4096, r.u32)
    format_, variants = d["format"], 1
    if format_ > 1:
        variants = r.u8()
        need(variants > 0, "malformed")
        need(variants <= 16, "limit")
    def value():
        elem = r.u8()
        need(elem in ELEMENTS, "malformed")
        return {"elem": elem, "shapes": [r.list(8, r.u32) for _ in range(variants)], "name": r.option(r.string)}
    def meaning():
        return {"axis": r.option(r.u32), "normalisation": r.choice(2)}
    def placement():
        return (0 if format_ == 1 else r.u16()) if r.choice(2) == 1 else None
    def image():
        p = {"input": r.u32(), "height": r.u32(), "width": r.u32(), "resize": r.u32() if r.choice(2) else None,
             "channels": (3, 3, 1)[r.choice(3)], "layout": r.choice(1), "scale": r.number("f")}
        p["mean"], p["std"] = ([r.number("f") for _ in range(p["channels"])] for _ in range(2))
        return p
    m = {"variants": variants, "values": r.list(4096, value), "inputs": indices()}
    if format_ == 1:
        m["outputs"] = indices()
        m["meanings"] = [{"axis": None, "normalisation": 0} for _ in m["outputs"]]
    else:
        outputs = r.list(4096, lambda: (r.u32(), meaning()))
        m["outputs"], m["meanings"] = [value for value, _ in outputs], [about for _, about in outputs]
    m["segments"] = r.list(64, lambda: {"domain": placement(), "in": indices(), "out": indices(), "kept_in": indices(),
                                        "kept_out": indices(), "least": r.u64(), "resident": r.u64(),
                                        "f16": r.bool()})
    m["image"] = r.option(image)
    if format_ == 1:
        m["meanings"][:1] = [meaning()]
    m["plan"] = r.string(65536)
    r.extensions(format_)
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
    outside, inside, maker, used, used_inside = set(m["inputs"]), set(), {}, set(m["outputs"] + m["inputs"]), set()
    for s in segments:
        domain, produced = s["domain"], set(s["out"]) | set(s["kept_out"])
        secure = domain is not None
        ok = ok and bool(produced) and set(s["in"]) <= outside and set(s["kept_in"]) <= inside
        ok = ok and not produced & (outside | inside) and not (secure and any(maker.get(v) == domain for v in s["in"]))
        ok = ok and all(maker.get(v) == domain for v in s["kept_in"])
        ok = ok and (secure or not (s["kept_in"] or s["kept_out"] or s["resident"] or s["f16"])) and s["least"] <= s["resident"]
        touched = [v for k in ("in", "out", "kept_in", "kept_out") for v in s[k]]
        ok = ok and (not secure or all(values[v]["elem"] in (1, 2, 3, 7, 9) for v in touched))
        outside |= set(s["out"])
        inside |= set(s["kept_out"])
        maker |= dict.fromkeys(produced, domain)
        used |= set(s["in"])
        used_inside |= set(s["kept_in"])
    interface = set(m["inputs"] + m["outputs"])
    ok = ok and set(m["outputs"]) <= outside <= used and inside <= used_inside and len(outside | inside) == len(values)
    names = [v["name"] for v in values if v["name"] is not None]
    ok = ok and len(set(names)) == len(names) and "" not in names
    ok = ok and all((v["name"] is not None) == (i in interface) for i, v in enumerate(values))
    ok = ok and all(1 <= math.prod(shape) <= 1 << 31 for v in values for shape in v["shapes"])
    axes = [(about["axis"], values[output]) for output, about in zip(m["outputs"], m["meanings"])]
    ok = ok and all(axis is None or all(axis < len(shape) for shape in v["shapes"]) for axis, v in axes)
    asked = {tuple(tuple(values[i]["shapes"][n]) for i in m["inputs"]) for n in range(m["variants"])}
    ok = ok and len(asked) == m["variants"]
    if p := m["image"]:
        sides, finite = [p["height"], p["width"], p["resize"] or 1], lambda x: abs(x) < float("inf")
        ok = ok and all(1 <= n <= 8192 for n in sides) and (p["resize"] is None or p["resize"] >= max(sides[:2]))
        ok = ok and all(map(finite, p["mean"])) and all(finite(x) and x > 0 for x in [*p["std"], p["scale"]])
        fits = lambda shape: len(shape) == 4 and shape[1:] == [p["channels"], *sides[:2]]
        ok = ok and p["input"] in m["inputs"] and any(map(fits, values[p["input"]]["shapes"]))
        ok = ok and values[p["input"]]["elem"] == 1
    ok = ok and all(((MODEL if s["domain"] is None else SECRET), i) in kinds for i, s in enumerate(segments))
    ok = ok and all(segment < len(segments) for _, segment in kinds)
    if ok and d["policies"]:
        ok = len(d["policies"]) == len(m["outputs"])
        made = {v for s in segments if s["domain"] is not None for v in s["out"]}
        for policy, output, about in zip(d["policies"], m["outputs"], m["meanings"]):
            ok = ok and (policy == 0 or about["axis"] is not None and values[output]["elem"] == 1 and output in made)
    return ok


def read_secret(data, d, m, segment):
    r, format_ = Reader(data), d["format"]
    def program():
        need(r.u8() == 1, "unsupported")
        return {"variant": r.u8() if format_ > 1 else 0, "batch": r.u32(), "peak": r.u64(), "bytes": len(r.bytes(1 << 26))}
    programs = r.list(16, program)
    need(programs, "malformed")
    variants = [p["variant"] for p in programs]
    need(format_ == 1 or all(a < b for a, b in zip(variants, variants[1:])), "malformed")
    table, names = len(r.bytes(1 << 26)), r.list(1 << 17, r.string)
    if format_ == 1:
        words = r.list(1 << 17, r.string)
        labels = [(0, len(words))] if words else []
    else:
        labels, room = [], 1 << 17
        for _ in range(r.count(4096)):
            labels.append((r.u32(), len(r.list(room, r.string))))
            need(labels[-1][1], "malformed")
            room -= labels[-1][1]
        need(all(a < b for (a, _), (b, _) in zip(labels, labels[1:])), "malformed")
    r.extensions(format_)
    r.finish()
    need(set(variants) == set(range(m["variants"])), "malformed")
    made = m["segments"][segment]["out"]
    need(all(output < len(m["outputs"]) and m["outputs"][output] in made for output, _ in labels), "malformed")
    return {"programs": programs, "weight_table_bytes": table, "names": len(names), "labels": dict(labels)}
